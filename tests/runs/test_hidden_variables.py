"""Environment variables are hidden within a block and come back after it, also after an error."""

import os

import pytest

from opsin.runs.hidden_variables import hidden_variables
from opsin.sweeps.launchers.slurm import _outside_slurm


def test_variables_are_hidden_by_the_beginning_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"MADE_A": "1", "MADE_B": "2", "NOT_MADE_C": "3"}
    monkeypatch.setattr(os, "environ", dict(given))
    with hidden_variables("MADE_"):
        assert os.environ == {"NOT_MADE_C": "3"}
    assert os.environ == given
    with pytest.raises(ValueError, match="an error"), hidden_variables("MADE_"):
        raise ValueError("an error")
    assert os.environ == given


@pytest.mark.parametrize("in_a_job", [True, False])
def test_the_limits_of_a_slurm_job_are_hidden_but_not_the_config_of_slurm(
    in_a_job: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"SLURM_CONF": "a", "SLURM_MEM_PER_NODE": "8", "SLURMD_NODENAME": "n"}
    given |= {"SLURM_JOB_ID": "7"} if in_a_job else {}
    monkeypatch.setattr(os, "environ", dict(given))
    with _outside_slurm():
        assert os.environ == ({"SLURM_CONF": "a"} if in_a_job else given)
    assert os.environ == given
