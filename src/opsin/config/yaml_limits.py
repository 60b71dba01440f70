"""Limits of YAML text: aliases that expand exponentially and deep nesting could use up all time and memory."""

import yaml

MAX_VALUES = 20_000
"""Maximum number of values in a file, each alias counted with everything that it stands for."""

MAX_DEPTH = 100
"""Maximum depth of sections within sections."""


class ExcessiveYAML(yaml.MarkedYAMLError):  # type: ignore[misc]
    """YAML text exceeds a limit."""


def check_yaml(text: str) -> None:
    """Check the syntax of YAML text and the number of its values, without building them.

    Raises:
        yaml.YAMLError: The syntax is wrong.
        ExcessiveYAML: Sections are nested too deeply, contain themselves, or expand to too many values.
    """
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser reads all files in a few milliseconds
    sizes: dict[str, int] = {}  # number of values by anchor
    open_nodes: list[list[int]] = [[0]]  # values so far in each open section
    anchors: list[str | None] = [None]
    for event in yaml.parse(text, parser):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([1])
            anchors.append(event.anchor)
            if len(open_nodes) > MAX_DEPTH + 1:
                raise _excess(event, f"sections are nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            (size,), anchor = open_nodes.pop(), anchors.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor = 1, event.anchor
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise _excess(event, f"{event.anchor} contains itself")
            size, anchor = sizes.get(event.anchor, 1), None
        else:
            continue
        open_nodes[-1][0] += size
        if anchor:
            sizes[anchor] = size
        if open_nodes[-1][0] > MAX_VALUES:
            raise _excess(event, f"more than {MAX_VALUES:,} values, aliases expanded")


def _excess(event: yaml.Event, problem: str) -> ExcessiveYAML:
    return ExcessiveYAML(problem=problem, problem_mark=event.start_mark)
