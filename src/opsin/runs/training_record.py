"""The record of how the steps before a checkpoint were trained; every checkpoint holds one, for `opsin verify`."""

import functools
from dataclasses import asdict, dataclass
from typing import Any

from opsin.errors import UserError
from opsin.runs.result import Settings

MOST_THREADS = 1024
"""Largest recorded number of threads that is accepted."""


@dataclass(frozen=True)
class TrainingRecord:
    """Record of the training by one process of a run; a resume is another process, perhaps with another config.

    Attributes:
        config: The text of config.yaml.
        start: The step from which the process resumed; 0 for a new run.
        settings: The settings of the process, with every `auto` resolved.
        cpu: Name of the processor.
        gpus: Names of the GPUs.
        torch: Version of torch.
    """

    config: str
    start: int
    settings: Settings
    cpu: str
    gpus: tuple[str, ...]
    torch: str

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return {**asdict(self), "gpus": list(self.gpus)}

    @classmethod
    def parse(cls, value: Any) -> "TrainingRecord":
        """Return the record in the value that `as_dict` returned.

        Raises:
            UserError: The value is something else.
        """
        from pydantic import ValidationError

        if value is None:
            raise UserError("a checkpoint does not record how it was trained: another version of Opsin wrote it")
        try:
            record: TrainingRecord = _adapter().validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(f"the training record of a checkpoint is damaged ({place}: {first['msg']})") from None
        check_threads(record.settings)
        return record


def check_threads(settings: Settings) -> None:
    """Check that a recorded number of threads can be used.

    Raises:
        UserError: It is zero or too large.
    """
    if not 1 <= settings.threads <= MOST_THREADS:
        raise UserError(f"the recorded number of threads is {settings.threads}, not one from 1 to {MOST_THREADS}")


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(TrainingRecord)
