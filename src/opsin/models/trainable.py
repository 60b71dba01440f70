"""The values of `model.trainable`, and the stages that each value selects."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from opsin.errors import UserError, did_you_mean

_LAST = re.compile(r"last: *([0-9]+)")


def _selection(trainable: str) -> str:
    if trainable in ("all", "head") or _LAST.fullmatch(trainable):
        return trainable
    raise ValueError("should be `all`, `head`, `last:N` or a list of stages")


_Last = Annotated[dict[Literal["last"], Annotated[int, Field(ge=1)]], Field(min_length=1)]
Trainable = Annotated[str, AfterValidator(_selection)] | list[str] | _Last
"""The values of `model.trainable`: `all`, `head` (alone), `last:N` or `{last: N}` (the last N stages and the head), or
a list of stages (and the head)."""


def selected_stages(trainable: Trainable, stages: Sequence[str], network: str) -> set[str]:
    """Return the stages that a value of `model.trainable` selects; the head, which always trains, may be among them.

    Args:
        trainable: The value.
        stages: All stages of the network, in the order in which they run.
        network: Name of the network, for messages.

    Raises:
        UserError: A name is not a stage of the network, or the network has fewer than N stages.
    """
    if isinstance(trainable, Mapping):
        return _last_stages(trainable["last"], stages, network)
    if isinstance(trainable, str) and (last := _LAST.fullmatch(trainable)):
        return _last_stages(int(last[1]), stages, network)
    if trainable == "all":
        return set(stages)
    if trainable == "head":
        return set()
    if isinstance(trainable, str):
        raise UserError(
            f"model.trainable={trainable!r} is neither `all`, `head` nor `last:N`; "
            f"give stages as a list, such as [{stages[-1]}]"
        )
    for name in trainable:
        if name not in stages and name != "head":
            hint = did_you_mean(name, [*stages, "head"]) or "."
            raise UserError(
                f"model.trainable: {network} has no stage {name!r}{hint} "
                f"Its stages are {', '.join(stages)}, then the head, which always trains."
            )
    return set(trainable)


def _last_stages(count: int, stages: Sequence[str], network: str) -> set[str]:
    if not 1 <= count <= len(stages):
        raise UserError(
            f"model.trainable=last:{count}: {network} has {len(stages)} stages, which are {', '.join(stages)}; "
            f"use last:1 to last:{len(stages)}, or `head` for no stage"
        )
    return set(stages[-count:])
