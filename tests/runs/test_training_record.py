"""The training record in a checkpoint is read back, and a damaged one is refused."""

from typing import Any

import pytest

from opsin.errors import UserError
from opsin.runs.result import Settings
from opsin.runs.training_record import TrainingRecord

RECORD = TrainingRecord("seed: 1\n", 7, Settings(threads=2, precision="32-true"), "a processor", ("a GPU",), "2.14.1")


def test_a_record_is_read_back() -> None:
    assert TrainingRecord.parse(RECORD.as_dict()) == RECORD


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "does not record how it was trained"),
        ([], "is damaged"),
        ({**RECORD.as_dict(), "start": "x"}, "damaged .start: "),
        ({**RECORD.as_dict(), "settings": {"threads": 10**9}}, "number of threads is 1000000000"),
        ({**RECORD.as_dict(), "settings": {}}, "number of threads is 0"),
    ],
)
def test_a_damaged_record_is_refused(value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainingRecord.parse(value)
