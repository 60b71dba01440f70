"""Write the configuration reference: one page for each config group, from the config files and the signatures.

The pages are written into `docs/config` before Sphinx reads its sources. They are not part of the repository.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from signature_tables import Key, cell, keys_of, table, value_text
from sphinx.application import Sphinx

from opsin.config.hydra_keys import has_effect
from opsin.config.locations import CONFIGS
from opsin.config.suggestions import config_options
from opsin.config.validation import ROOT, SectionSchema
from opsin.sweeps.checked_sweep import SCHEMA as SWEEP_SCHEMA
from opsin.training.plan import SCHEMA as RUN_SCHEMA

SECTIONS = {**RUN_SCHEMA, **SWEEP_SCHEMA}
INDEX = """# Configuration reference

A run combines one option of each config group and changes single keys: `opsin train group=option key=value`.
`opsin train --cfg job` prints the complete config of a command. A key that does not exist and a value that is not valid
are refused before anything is loaded. A key that the file of the chosen option does not contain needs a `+`:
`+augmentation.erasing=0.25`.

{groups}

Keys that belong to no group: [keys of a run](run.md).

```{{toctree}}
:hidden:

run
{pages}
```
"""


def pages() -> dict[str, str]:
    """Return the Markdown of every page of the reference, by file name."""
    groups = config_options()
    texts = {f"{group}.md": _group_page(group, options) for group, options in groups.items()}
    texts["run.md"] = _run_page(set(groups))
    return {**texts, "index.md": _index(groups)}


def write_pages(app: Sphinx) -> None:
    """Write the pages that changed, and remove pages of groups that no longer exist."""
    folder = Path(app.srcdir) / "config"
    folder.mkdir(exist_ok=True)
    written = pages()
    for name, text in written.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for file in folder.glob("*.md"):
        if file.name not in written:
            file.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the reference when a build begins."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}


def comments_of(text: str) -> dict[str, str]:
    """Return the comment at the end of each line of a YAML file, by dotted key."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    last = ""
    for line in text.splitlines():
        match = re.match(r"^( *)(?:- )?([\w@/ ]+):(.*)$", line)
        if match:
            indent = len(match[1])
            above = [(depth, name) for depth, name in above if depth < indent]
            above.append((indent, match[2]))
            last = ".".join(name for _, name in above)
            if comment := re.search(r" # (.*)$", match[3]):
                found[last] = comment[1]
        elif last in found and (more := re.match(r"^ +# (.*)$", line)):
            found[last] += f" {more[1]}"
    return found


def _primary() -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values and the comments of the primary config."""
    text = (CONFIGS / "train.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text), comments_of(text)


def _index(groups: Mapping[str, list[str]]) -> str:
    tree, comments = _primary()
    defaults = {name: value for item in tree["defaults"] if isinstance(item, dict) for name, value in item.items()}
    chooses = {group: cell(comments.get(f"defaults.{group}", "")) for group in groups}
    rows = [
        f"| [{group}]({group}.md) | {value_text(defaults.get(group))} | {len(options)} | {chooses[group]} |"
        for group, options in groups.items()
    ]
    header = ["| group | default | options | chooses |", "| --- | --- | ---: | --- |"]
    return INDEX.format(groups="\n".join([*header, *rows]), pages="\n".join(groups))


def _run_page(groups: set[str]) -> str:
    """Return the page of the keys that no group chooses."""
    tree, comments = _primary()
    parts = [
        "# Keys of a run",
        "## Top-level keys",
        table([*_owned_keys(ROOT, SECTIONS[ROOT], tree, comments), *_hydra(tree, comments)]),
    ]
    for section in SECTIONS:
        if section and section not in groups:
            parts += [f"## {section}", _sentence(comments.get(section, "")), table(_section_keys(section))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _hydra(tree: Mapping[str, Any], comments: Mapping[str, str]) -> list[Key]:
    """Return the keys of Hydra that the primary config sets and an override may set."""

    def leaves(values: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
        return [
            leaf
            for name, value in values.items()
            for leaf in (leaves(value, f"{above}.{name}") if isinstance(value, dict) else [(f"{above}.{name}", value)])
        ]

    texts = {
        "hydra.run.dir": "run directory",
        "hydra.sweep.dir": "folder of the sweep directories",
    }
    found = [(key, value) for key, value in leaves(tree["hydra"], "hydra") if has_effect(key)]
    return [Key(key, "text", value_text(value), comments.get(key, texts.get(key, ""))) for key, value in found]


def _section_keys(section: str) -> list[Key]:
    """Return the keys of a section that do not depend on an option."""
    tree, comments = _primary()
    own = {name.removeprefix(f"{section}."): text for name, text in comments.items()}
    return _owned_keys(section, SECTIONS[section], tree.get(section) or {}, own)


def _owned_keys(
    section: str, schema: SectionSchema, defaults: Mapping[str, Any], comments: Mapping[str, str]
) -> list[Key]:
    """Return the keys of the dataclasses of a section, and of its constructor if it always has the same one."""
    known = {"defaults": defaults, "comments": comments}
    keys = [key for owner in schema.options.values() for key in keys_of(owner, section, **known)]
    return keys + (keys_of(schema.call, section, computed=schema.computed, **known) if schema.call else [])


def _group_page(group: str, options: list[str]) -> str:
    _, comments = _primary()
    parts = [f"# {group}", _sentence(comments.get(f"defaults.{group}", ""))]
    if group in SECTIONS and (keys := table(_shared_keys(group))):
        parts += ["## Keys of every option", keys]
    parts += [_option(group, name) for name in options]
    if group in SECTIONS and (constructors := SECTIONS[group].constructors):
        names = ", ".join(f"`{name}`" for name in sorted(constructors.by_name))
        parts += ["## Constructors", f"`_target_` of this section accepts {names}, and [your own](../own_project.md)."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shared_keys(group: str) -> list[Key]:
    """Return the keys of every option, with the defaults of the primary config or of the default option."""
    tree, _ = _primary()
    if group in tree:
        return _section_keys(group)
    file = _file(group, str(next(item[group] for item in tree["defaults"] if isinstance(item, dict) and group in item)))
    text = file.read_text(encoding="utf-8")
    return _owned_keys(group, SECTIONS[group], yaml.safe_load(text) or {}, comments_of(text))


def _option(group: str, name: str) -> str:
    """Return the part of a page for one option: description, command, keys of its constructors, and its file."""
    file = _file(group, name)
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    comments = [line.lstrip("# ") for line in lines[: _leading_comments(lines)] if not line.startswith("# @package")]
    commands = [line for line in comments if line.startswith("opsin train")]
    description = " ".join(line for line in comments if line not in commands)
    parts = [f"## {name}", description, *(f"```bash\n{command}\n```" for command in commands)]
    if group in SECTIONS:
        parts += _targets(group, yaml.safe_load(text) or {}, comments_of(text))
    shown = "\n".join(lines[_leading_comments(lines) :])
    return "\n\n".join(part for part in [*parts, f"```yaml\n{shown}\n```"] if part)


def _targets(group: str, values: Mapping[str, Any], comments: Mapping[str, str]) -> list[str]:
    """Return Markdown for each constructor that an option names: the first line of its docstring, and its keys."""
    schema = SECTIONS[group]
    if schema.constructors is None:
        return []
    items = values.items() if schema.many else [("", values)]
    parts = []
    for name, item in items:
        if isinstance(item, dict) and "_target_" in item:
            call = schema.constructors.by_name[item["_target_"]]
            own = {} if name else comments
            keys = keys_of(call, f"{group}.{name}".rstrip("."), computed=schema.computed, defaults=item, comments=own)
            heading = [f"### {name}", (inspect.getdoc(call) or "").split("\n\n")[0]] if name else []
            parts += [*heading, table(keys)]
    return parts


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def _leading_comments(lines: list[str]) -> int:
    return next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _file(group: str, name: str) -> Path:
    return CONFIGS / group / f"{name}.yaml"
