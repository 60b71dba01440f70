"""Secrets of the jobs of a sweep: passed on by environment, refused in the settings of a launcher."""

import logging
from pathlib import Path
from typing import Any

import pytest

from opsin.errors import UserError
from opsin.runs.secret_values import MaskSecrets, mask_secrets, register_secret
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.launchers.ray_actor import JobEnvironment
from opsin.sweeps.search_space import read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.sweep import sweep
from opsin.sweeps.trials import Trial


@pytest.mark.parametrize(
    "setup",
    [
        "launcher.setup=['export HF_TOKEN=hunter2']",
        "launcher.setup=['module load cuda; DB_PASS=\"hunter2\"']",
        "launcher.setup=['export HF_TOKEN=${oc.env:HF_TOKEN}']",
        "+launcher.options.export='ALL,WANDB_API_KEY=hunter2'",
    ],
)
def test_a_secret_in_the_settings_of_a_launcher_is_refused(
    setup: str, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    with pytest.raises(UserError, match=r"launcher\..*script of each job.*\$NAME") as error:
        sweep(["launcher=slurm", setup, "seed=1,2"])
    assert "hunter2" not in str(error.value)
    assert list(in_tmp.iterdir()) == []


def test_a_line_of_setup_may_read_a_variable(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no SLURM, so the launcher itself refuses to start
    with pytest.raises(UserError, match="sbatch is not installed"):
        sweep(["launcher=slurm", "launcher.setup=['export HF_TOKEN=$MY_TOKEN','module load cuda']", "seed=1,2"])


def test_a_job_names_its_secrets_and_a_node_gets_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRACKER", "MY_TOKEN", "OTHER_TOKEN", "DB_PASS", "PLACE"):
        monkeypatch.setenv(name, f"value of {name}")
    logger = {"api_key": "${oc.env:TRACKER}", "header": "'Bearer ${oc.env:MY_TOKEN}'", "folder": "${oc.env:PLACE}"}
    space = read_space(["seed=1,2", *(f"+logger.x.{key}={value}" for key, value in logger.items())], {})
    settings = Sweep(storage="postgresql://me:${oc.env:DB_PASS}@host/x")
    trials: Any = None  # only a pruner uses it
    trial = Trial(0, {"seed": "1"}, space.overrides({"seed": "1"}), "000")
    job = Jobs(space).make_job(trial, tmp_path, settings, "val/loss", trials, 1)
    assert job.secrets == ("DB_PASS", "MY_TOKEN", "TRACKER")
    variables = JobEnvironment.here(job.secrets).variables
    assert variables["TRACKER"] == "value of TRACKER"
    assert variables.keys().isdisjoint({"OTHER_TOKEN", "PLACE"})


def test_registered_secrets_are_masked_in_every_form() -> None:
    register_secret('pass/wörd "1"', "${oc.env:A}")
    register_secret("short", "${oc.env:B}")
    for text in ('pass/wörd "1"', "https://x/?t=pass%2Fw%C3%B6rd%20%221%22", '{"t": "pass/w\\u00f6rd \\"1\\""}'):
        assert "${oc.env:A}" in mask_secrets(text)
        assert "1" not in mask_secrets(text)
    assert mask_secrets("short") == "short"
    try:
        raise ValueError('pass/wörd "1"')
    except ValueError as error:
        made = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "with %s", ('pass/wörd "1"',), made)
    assert MaskSecrets().filter(record)
    text = logging.Formatter().format(record)
    assert text.startswith("with ${oc.env:A}\n")
    assert "wörd" not in text
