"""Search space of a sweep: lists and ranges, read from overrides and from the `space` of a sweep file."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opsin.config import ConfigSource
from opsin.config.hydra_session import override_parser
from opsin.config.overrides import key_of, parse_override
from opsin.config.suggestions import config_options
from opsin.errors import UserError, did_you_mean
from opsin.runs.quoting import quote

Value = str | int | float | bool | None
"""Value of a key in one run."""

MAX_LISTED = 100_000
"""Maximum number of listed values of a key: `range(0,inf)` never ends."""


@dataclass(frozen=True)
class Listed:
    """A key with listed values.

    Attributes:
        key: The key as typed, such as `model` or `+trainer.max_time`.
        values: Right sides of the overrides, quoted for Hydra.
    """

    key: str
    values: tuple[str, ...]

    def override(self, choice: Value) -> str:
        """Return the override that sets this choice."""
        return f"{self.key}={choice}"

    display = override


@dataclass(frozen=True)
class Ranged:
    """A key with a range of numbers, both ends included.

    Attributes:
        key: The key as typed.
        low: Lowest value.
        high: Highest value.
        log: Whether values are sampled uniformly on a logarithmic scale.
        whole: Whether only whole numbers are sampled. True only for `int(interval(LOW,HIGH))`, because Hydra reads the
            ends of a plain interval as floats.
    """

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def override(self, choice: Value) -> str:
        """Return the override that sets this choice."""
        return f"{self.key}={choice!r}"

    def display(self, choice: Value) -> str:
        """Return the override for display, with four significant digits."""
        return f"{self.key}={choice:.4g}" if isinstance(choice, float) else self.override(choice)


Dimension = Listed | Ranged


@dataclass(frozen=True)
class Space:
    """The overrides of all runs of a sweep, and the keys that vary.

    Attributes:
        fixed: Overrides of every run.
        dimensions: Keys that vary, in the order of the command line, after those of the sweep file.
    """

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    @property
    def lists(self) -> dict[str, tuple[str, ...]]:
        """Values of each key that has a list."""
        return {dimension.key: dimension.values for dimension in self.dimensions if isinstance(dimension, Listed)}

    def ordered(self, lists: Mapping[str, Sequence[str]]) -> "Space":
        """Return the space with the values of its lists in another order.

        Args:
            lists: Values in their order, by key; other keys keep their order.
        """
        found = (
            Listed(d.key, tuple(lists[d.key])) if isinstance(d, Listed) and d.key in lists else d
            for d in self.dimensions
        )
        return replace(self, dimensions=tuple(found))

    def overrides(self, choices: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the overrides of the run with these choices, by key."""
        return (*self.fixed, *(dimension.override(choices[dimension.key]) for dimension in self.dimensions))

    def first(self) -> tuple[str, ...]:
        """Return the overrides that set every key to its first or lowest value."""
        values = (d.values[0] if isinstance(d, Listed) else d.low for d in self.dimensions)
        return tuple(d.override(value) for d, value in zip(self.dimensions, values, strict=True))

    def varied(self, choices: Mapping[str, Value], without: Sequence[str] = ()) -> str:
        """Return the overrides of the keys that vary, except some keys."""
        varying = [dimension for dimension in self.dimensions if dimension.key.lstrip("+") not in without]
        return " ".join(dimension.override(choices[dimension.key]) for dimension in varying)

    def display(self, choices: Mapping[str, Value]) -> str:
        """Return the overrides of the keys that vary, for display."""
        return " ".join(dimension.display(choices[dimension.key]) for dimension in self.dimensions)

    def sets(self, key: str) -> bool:
        """Return whether an override sets a key or varies it."""
        return key in map(key_of, (*self.fixed, *(dimension.key for dimension in self.dimensions)))

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yield every combination; the last key changes fastest.

        Raises:
            UserError: A key has a range instead of a list.
        """
        for dimension in self.dimensions:
            if isinstance(dimension, Ranged):
                raise UserError(
                    f"{dimension.key} has a range, but a grid needs a list: {dimension.key}=a,b,c; or set "
                    "sweep.sampler to tpe, random or cmaes, and sweep.trials=N"
                )
        for values in itertools.product(*self.lists.values()):
            yield dict(zip(self.lists, values, strict=True))


def read_space(overrides: Sequence[str], space: Mapping[str, Any], source: ConfigSource | None = None) -> Space:
    """Divide overrides into those of every run and those that vary.

    The last override of a key counts, as in a single run.

    Args:
        overrides: Overrides of the command line, such as `model=mlp,cnn_gap`, `seed=range(3)`,
            `optimizer.lr=tag(log,interval(1e-4,0.1))`, `model.hidden=int(interval(16,128))`, `trainer.max_epochs=5`.
        space: Values by key, from a sweep file; overrides of the command line replace its keys.
        source: Search path and primary config; None for those of Opsin.

    Raises:
        UserError: An override cannot be read, a list or a range is empty, or one has no finite number of values.
    """
    source = source or ConfigSource()
    options = config_options(source)
    typed = {key_of(override) for override in overrides}
    from_file = [_typed(key, value, options) for key, value in space.items() if key.lstrip("+") not in typed]
    fixed: list[str] = []
    dimensions: list[Dimension] = []
    parser = override_parser(source)
    every = [*from_file, *overrides]
    last = {key_of(override): number for number, override in enumerate(every)}
    for number, override in enumerate(every):
        parsed = parse_override(override, parser)
        key = parsed.get_key_element()
        if not parsed.is_sweep_override():
            fixed.append(override)
        elif number < last[key_of(override)]:
            continue
        elif parsed.is_discrete_sweep():
            dimensions.append(Listed(key, _values(override, parsed, options)))
        else:
            dimensions.append(_ranged(key, parsed.value()))
    return Space(tuple(fixed), tuple(dimensions))


def _values(override: str, parsed: Any, options: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the values that an override of a sweep lists, each once.

    Args:
        override: The override.
        parsed: The same, as Hydra reads it.
        options: Names of the options in each config group.

    Raises:
        UserError: It lists no values, or too many.
    """
    from hydra.errors import HydraException

    try:
        values = tuple(dict.fromkeys(itertools.islice(parsed.sweep_string_iterator(), MAX_LISTED + 1)))
    except (HydraException, ValueError, ArithmeticError):  # Hydra reads a range when its values are taken
        raise UserError(f"{override}: the ends of a range must be numbers, and its step must not be 0") from None
    if len(values) > MAX_LISTED:
        raise UserError(f"{override} lists more than {MAX_LISTED:,} values")
    if not values and parsed.is_range_sweep():
        raise UserError(f"{override}: the range is empty, because a range does not include its end")
    if not values:
        raise UserError(_nothing_matches(override, options))
    return values


def _nothing_matches(override: str, options: Mapping[str, Sequence[str]]) -> str:
    """Return the message for a `glob(...)` without a match."""
    group = key_of(override)
    if group in options:
        return f"{override}: no option of {group} matches. Its options are {', '.join(options[group])}"
    near = did_you_mean(group, options) or f"; the groups are {', '.join(options)}"
    return f"{override}: {group} is not a config group{near}"


def _typed(key: str, value: Any, options: Mapping[str, Sequence[str]]) -> str:
    """Return the override for a key of a sweep file: a YAML list is a list of choices, and text is used as typed."""
    if isinstance(value, str):
        return f"{key}={value}"
    choices = value if isinstance(value, list) else [value]
    return f"{key}={','.join(quote(_option(key, choice, options)) for choice in choices)}"


def _option(key: str, choice: Any, options: Mapping[str, Sequence[str]]) -> Any:
    """Return the name of an option that YAML 1.1 reads as a boolean: `off` and `on`."""
    if not isinstance(choice, bool):
        return choice
    name = "on" if choice else "off"
    return name if name in options.get(key, ()) else choice


def _ranged(key: str, interval: Any) -> Ranged:
    """Return the range of an interval of Hydra.

    Raises:
        UserError: The interval is empty or not finite, or is logarithmic and does not begin above 0.
    """
    low, high = interval.start, interval.end
    if not low < high:
        raise UserError(f"{key}: interval({low},{high}) is empty; the lower number comes first")
    if not math.isfinite(float(high) - float(low)):
        raise UserError(f"{key}: interval({low},{high}) is too wide: its ends must be finite numbers")
    if "log" in interval.tags and low <= 0:
        raise UserError(f"{key}: a logarithmic interval must begin above 0, not at {low}")
    whole = isinstance(low, int) and isinstance(high, int)
    return Ranged(key, low, high, "log" in interval.tags, whole)
