"""Check the values of a sweep before its first run starts."""

import multiprocessing
import signal
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

from opsin.config import RunConfig
from opsin.errors import UserError
from opsin.sweeps.search_space import Listed, Space, Value

MOST_VALUES = 50
"""Number of values that are checked: the composition of a config takes about 0.15 s."""

MOST_TRIES = 10
"""Number of runs that are tried with a value: it is refused if none of them can start."""

Check = Callable[[RunConfig], object]
"""Checks the config of a run before it is trained; raises `UserError`."""

T = TypeVar("T")


def check_values(space: Space, check: Callable[[Sequence[str]], T], groups: Container[str]) -> list[T]:
    """Check each listed value once, in a run with the first values of the other keys.

    Of whole numbers, and of other numbers, only the smallest and the largest are checked: limits are ranges. A value
    that fails there may fit other values: it is tried with their second values, their third, and so on. What only some
    combinations can show is left to their runs, and so are the values beyond `MOST_VALUES`. Options of config groups
    come first, because their files may hold any setting.

    Args:
        space: Search space of the sweep.
        check: Composes and checks the run with some overrides; raises `UserError`.
        groups: Names of the config groups.

    Returns:
        The result of `check` for each run that can start.

    Raises:
        UserError: No run can start, or none with a value; the message begins with the override of this value.
    """
    results: dict[tuple[str, ...], T | UserError] = {}

    def refusal(runs: Iterator[tuple[str, ...]]) -> UserError | None:
        """Return the first error; None if a run can start."""
        first = None
        for overrides in runs:
            if overrides not in results:
                results[overrides] = _result(check, overrides)
            found = results[overrides]
            if not isinstance(found, UserError):
                return None
            first = first or found
        return first

    if error := refusal(_runs(space, {})):
        raise error
    for dimension, value in islice(_values(space, groups), MOST_VALUES):
        if error := refusal(_runs(space, {dimension.key: value})):
            text = dimension.override(value)
            raise error if str(error).startswith(f"{text} ") else UserError(f"{text}: {error}")
    return [found for found in results.values() if not isinstance(found, UserError)]


def _result(check: Callable[[Sequence[str]], T], overrides: Sequence[str]) -> T | UserError:
    try:
        return check(overrides)
    except UserError as error:
        return error


def _values(space: Space, groups: Container[str]) -> Iterator[tuple[Listed, str]]:
    """Yield the values to check with their keys, those of config groups first."""
    lists = [dimension for dimension in space.dimensions if isinstance(dimension, Listed)]
    for dimension in sorted(lists, key=lambda listed: listed.key.lstrip("+") not in groups):
        for value in _without_middle(dimension.values):
            yield dimension, value


def _without_middle(values: Sequence[str]) -> list[str]:
    """Return values in their order, but of the numbers of each type only the smallest and the largest."""
    numbers = {of: [of(value) for value in values if _type(value) is of] for of in (int, float)}
    ends: dict[type, tuple[float, float]] = {of: (min(found), max(found)) for of, found in numbers.items() if found}
    return [value for value in values if (of := _type(value)) is str or of(value) in ends[of]]


def _type(value: str) -> type[int] | type[float] | type[str]:
    for of in (int, float):
        with suppress(ValueError):
            of(value)
            return of
    return str


def _runs(space: Space, chosen: Mapping[str, Value]) -> Iterator[tuple[str, ...]]:
    """Yield the overrides of runs with chosen values: the other keys have their first values, then their second, ..."""
    values = {d.key: d.values if isinstance(d, Listed) else (d.low, d.high) for d in space.dimensions}
    others = {key: found for key, found in values.items() if key not in chosen}
    longest = max(map(len, others.values()), default=1)
    for place in range(min(longest, MOST_TRIES)):
        row: dict[str, Value] = {key: found[min(place, len(found) - 1)] for key, found in others.items()}
        yield space.overrides({**row, **chosen})


def spawn(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Run a function in a fresh process."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


@contextmanager
def check_process(load: Callable[[], Check], start: Callable[..., BaseProcess] = spawn) -> Iterator[Check]:
    """Run a check in a process of its own: it needs torch, which would keep 0.5 GB in the process of the sweep.

    If the process ends by itself, no further config is refused, and the runs report their errors.

    Args:
        load: Imports what the check needs, and returns it. A function at the top level of a module.
        start: Starts the process with a function and its arguments.
    """
    here, there = multiprocessing.Pipe()
    process = start(_serve, there, load)
    there.close()

    def check(composed: RunConfig) -> None:
        reason = ""
        with suppress(EOFError, OSError):
            here.send(composed)
            reason = here.recv()
        if reason:
            raise UserError(reason)

    try:
        yield check
    finally:
        here.close()
        process.kill()
        process.join()


def _serve(configs: Connection, load: Callable[[], Check]) -> None:
    """Check configs until the process of the sweep closes the connection or ends; send the reason of each refusal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process of the sweep
    check = load()
    with suppress(EOFError, OSError):
        while True:
            configs.send(_reason(check, configs.recv()))


def _reason(check: Check, composed: RunConfig) -> str:
    try:
        check(composed)
    except UserError as error:
        return str(error)
    except Exception:  # code of the user fails: only the run has a place for its traceback
        return ""
    return ""
