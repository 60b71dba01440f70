"""Markdown tables of the parameters of a function or class: valid values, default and description."""

import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, TypeAdapter

from opsin.config.signatures import signature_model

RANGES = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE)
ARGUMENT = re.compile(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:\s*(.*(?:\n {5,}.*)*)", re.MULTILINE)
WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true` or `false`", "null": "`null`"}


@dataclass(frozen=True)
class Key:
    """One key of a config section.

    Attributes:
        name: Dotted key, such as `optimizer.lr`.
        values: Valid values, as Markdown.
        default: Default value, as Markdown.
        description: One line, as Markdown; empty if there is none.
    """

    name: str
    values: str
    default: str
    description: str


def keys_of(
    call: Callable[..., Any],
    section: str,
    *,
    computed: frozenset[str] = frozenset(),
    defaults: Mapping[str, Any] | None = None,
    comments: Mapping[str, str] | None = None,
) -> list[Key]:
    """Return the keys that a function or class accepts.

    Args:
        call: Function, class or dataclass.
        section: Dotted name of the section, the beginning of each key.
        computed: Parameters that a config may not set.
        defaults: Values of the config by name; a parameter that is not among them has the default of its signature.
        comments: Comments of the config by name, for parameters that the docstring does not describe.
    """
    texts = {**(comments or {}), **argument_texts(call)}
    keys = []
    for name, field in signature_model(call, computed).model_fields.items():
        default = (defaults or {}).get(name, "???" if field.is_required() else field.default)
        values = values_text(field.rebuild_annotation())
        keys.append(Key(f"{section}.{name}".lstrip("."), values, value_text(default), texts.get(name, "")))
    return keys


def table(keys: list[Key]) -> str:
    """Return the keys as a Markdown table; empty if there are none."""
    rows = [f"| `{key.name}` | {key.values} | {key.default} | {cell(key.description)} |" for key in keys]
    header = ["| key | values | default | description |", "| --- | --- | --- | --- |"]
    return "\n".join(["```{table}", ":class: keys", "", *header, *rows, "```"]) if rows else ""


def value_text(value: Any) -> str:
    """Return a value as on the command line, as Markdown."""
    if value == "???":
        return "required"
    if isinstance(value, tuple):
        value = list(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"`{text}`" if text else '`""`'


def values_text(annotation: Any) -> str:
    """Return the values that an annotation accepts, as Markdown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema = TypeAdapter(annotation, config={"arbitrary_types_allowed": True}).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return f"`{getattr(annotation, '__name__', annotation)}`"
    return _described(schema, schema.get("$defs", {}))


def argument_texts(call: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions of parameters in Google-style docstrings, by name, each as one line.

    A class inherits the descriptions of its base classes, unless it has its own.
    """
    documents = (
        [part for kind in call.__mro__[:-1] for part in (kind.__init__, kind)] if inspect.isclass(call) else [call]
    )
    texts: dict[str, str] = {}
    for document in reversed(documents):
        for section in SECTION.findall(inspect.cleandoc(document.__doc__ or "")):
            found = {name: _one_line(words, document.__module__) for name, words in ARGUMENT.findall(section)}
            texts |= {name: text for name, text in found.items() if not text.startswith("see `")}
    return texts


def _described(schema: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    """Return the values of a JSON schema as Markdown."""
    if "$ref" in schema:
        return _described(shared[schema["$ref"].rpartition("/")[2]], shared)
    if "anyOf" in schema or "oneOf" in schema:
        parts = [_described(part, shared) for part in schema.get("anyOf", schema.get("oneOf"))]
        return ", ".join(dict.fromkeys(parts))
    if "const" in schema or "enum" in schema:
        return ", ".join(value_text(value) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        return _list(schema, shared)
    if kind == "object":
        names = ", ".join(f"`{name}`" for name in schema.get("properties", {}))
        return f"mapping of {names}" if names else "mapping"
    ranges = [f"{sign} {json.dumps(schema[bound])}" for bound, sign in RANGES if bound in schema]
    return " ".join([WORDS.get(str(kind), "any value"), " and ".join(ranges)]).strip()


def _list(schema: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        parts = [_described(part, shared) for part in schema["prefixItems"]]
        return f"[{', '.join(parts)}]" if len(set(parts)) > 1 else f"list of {len(parts)}: {parts[0]}"
    return f"list of: {_described(schema.get('items', {}), shared)}"


def _one_line(words: str, module: str) -> str:
    """Return a description on one line in Markdown; of other libraries only the first sentence."""
    text = " ".join(words.split("\n\n", maxsplit=1)[0].split())
    text = re.sub(r":\w+:`~?([^`<]+?)(?: ?<[^`]*>)?`", r"`\1`", text).replace("``", "`")
    if module.startswith("opsin"):
        return re.sub(r"\bNone\b(?!`)", "null", text)
    text = re.sub(r" ?\(default: .*\)|`?([\w ]+)`_|`\*\*`", r"\1", text)
    return re.split(r"(?<=[a-z])\. ", text, maxsplit=1)[0].strip()


def cell(text: str) -> str:
    """Return text that stays in one cell of a Markdown table."""
    return text.replace("|", "\\|")
