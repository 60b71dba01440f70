"""Jobs of a sweep: their devices, the trial that a resumed one reports to, and their secrets."""

import logging
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from opsin.config import ConfigSource, compose
from opsin.config.overrides import find_value, key_of
from opsin.config.saved_config import from_saved
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.secret_values import MaskSecrets, mask_secrets, register_secret
from opsin.sweeps.best_run import TrialRow
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.launchers.base import Job
from opsin.sweeps.launchers.ray_actor import JobEnvironment
from opsin.sweeps.outcomes import Outcome
from opsin.sweeps.search_space import Space, read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.sweep import sweep
from opsin.sweeps.trials import Trial, Trials
from opsin.sweeps.workers import Worker
from opsin.training.callbacks import Pruning
from opsin.training.resume_check import check_resume


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


@pytest.mark.parametrize("resumes", [True, False])
def test_a_job_with_a_link_out_of_its_run_is_refused(tmp_path: Path, resumes: bool) -> None:
    space = read_space(["seed=1,2"], {})
    run, victim = tmp_path / "000", tmp_path / "victim"
    run.mkdir()
    victim.mkdir()
    (run / ".finished").symlink_to(victim, target_is_directory=True)
    if resumes:
        (run / "config.yaml").write_text("trainer: {devices: 1}")
    trials: Any = None  # only a pruner uses it
    trial = Trial(0, {"seed": "1"}, space.overrides({"seed": "1"}), "000")
    with pytest.raises(UserError, match="is a link out of the run"):
        Jobs(space).make_job(trial, tmp_path, Sweep(), "val/loss", trials, 1)


def test_registered_secrets_are_masked_in_every_form() -> None:
    register_secret('pass/wörd "1"', "${oc.env:A}")
    register_secret("short", "${oc.env:B}")
    for text in ('pass/wörd "1"', "https://x/?t=pass%2Fw%C3%B6rd%20%221%22", '{"t": "pass/w\\u00f6rd \\"1\\""}'):
        assert "${oc.env:A}" in mask_secrets(text)
        assert "1" not in mask_secrets(text)
    assert mask_secrets("short") == "short"
    assert mask_secrets("at mysql://me:pw@db/x") == "at mysql://me:***@db/x"
    for text in ("mysql://me:${oc.env:DB_PASS}@db/x", "http://host:80/a@b", "mysql://me@db/x"):
        assert mask_secrets(text) == text
    try:
        raise ValueError('pass/wörd "1"')
    except ValueError as error:
        made = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "with %s", ('pass/wörd "1"',), made)
    assert MaskSecrets().filter(record)
    text = logging.Formatter().format(record)
    assert text.startswith("with ${oc.env:A}\n")
    assert "wörd" not in text


@pytest.mark.parametrize(("devices", "count"), [("2", 2), ("[0, 3, 5]", 3), ("auto", 1), ("1", 1)])
def test_the_job_of_the_best_run_has_the_devices_of_its_config(tmp_path: Path, devices: str, count: int) -> None:
    run = RunDirectory(tmp_path / "000")
    run.path.mkdir()
    run.config.write_text(f"trainer: {{devices: {devices}}}")
    row = TrialRow(0, "", "", "", "complete", (0.5,), "", run, run.read_result())
    assert seeds()[1].test_job(row, Sweep()).devices == count


@pytest.mark.parametrize(
    "kept", ["+hydra.job.env_set.WANDB_MODE=offline", "hydra/job_logging=none", "hydra.verbose=true"]
)
def test_a_resumed_job_has_the_settings_of_its_process(tmp_path: Path, kept: str) -> None:
    words = ["seed=1,2", "model=mlp", "hydra.sweep.dir=sweeps", "hydra.searchpath=[]", kept]
    space = read_space(words, {})
    run = RunDirectory(tmp_path / "000")
    run.path.mkdir()
    run.config.write_text("trainer: {devices: 1}")
    trials: Any = None  # only a pruner uses it
    trial = Trial(0, {"seed": "1"}, space.overrides({"seed": "1"}), "000")
    jobs = Jobs(space)
    resumed = jobs.make_job(trial, tmp_path, Sweep(), "val/loss", trials, 1)
    assert resumed.overrides == (f"resume={run.path}", kept)
    row = TrialRow(0, "", "", "", "complete", (0.5,), "", run, run.read_result(), trial.overrides)
    assert jobs.test_job(row, Sweep()).overrides == (f"resume={run.path}", "test=true", "report=true", kept)


def test_an_experiment_may_set_the_defaults_of_a_sweep(tmp_path: Path) -> None:
    texts = {
        "none": "seed: 3",
        "all": "test: false\nreport: false\ntrainer: {threads: 2}",
        "no_batches": "trainer: {limit_test_batches: 0}",
    }
    (tmp_path / "experiment").mkdir()
    for name, text in texts.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    source = ConfigSource.of([str(tmp_path)])
    space = read_space([f"experiment={','.join(texts)}", "trainer=cpu"], {}, source)
    jobs = Jobs(space, source)
    found = {}
    for name in texts:
        typed = space.overrides({"experiment": name})
        trials: Any = None  # only a pruner uses it
        job = jobs.make_job(Trial(0, {}, typed, f"run_{name}"), tmp_path, Sweep(), "val/loss", trials, 7)
        job.run.config.write_text("trainer: {devices: 1}")
        row = TrialRow(0, "", "", "", "complete", (0.5,), "", job.run, job.run.read_result(), typed)
        report = find_value(jobs.test_job(row, Sweep()).overrides, "report")
        found[name] = (jobs.tests(row), report, find_value(job.overrides, "trainer.threads"))
    assert found == {"none": (True, "True", "7"), "all": (False, "False", None), "no_batches": (False, "True", "7")}


def test_a_typed_test_and_report_hold_for_every_run(tmp_path: Path) -> None:
    space = read_space(["seed=1,2", "test=true", "report=false"], {})
    jobs, run = Jobs(space), RunDirectory(tmp_path)
    run.config.write_text("trainer: {devices: 1}")
    typed = space.overrides({"seed": "1"})
    row = TrialRow(0, "", "", "", "complete", (0.5,), "", run, run.read_result(), typed)
    assert not jobs.tests(row)
    assert "report=false" in jobs.test_job(row, Sweep()).overrides


def test_a_deleted_key_has_its_default(tmp_path: Path) -> None:
    space = read_space(["seed=1,2", "~trainer.devices", "~trainer.limit_test_batches", "~report"], {})
    jobs, trials = Jobs(space), Mock(spec=Trials)
    typed = space.overrides({"seed": "1"})
    job = jobs.make_job(Trial(0, {}, typed, "run"), tmp_path, Sweep(), "val/loss", trials, 1)
    assert job.devices == 1
    compose([word for word in job.overrides if key_of(word) != "hydra.run.dir"], job.run.path).save()
    row = TrialRow(0, "", "", "", "complete", (0.5,), "", job.run, job.run.read_result(), typed)
    assert jobs.tests(row)
    test = jobs.test_job(row, Sweep())
    assert (test.devices, test.overrides) == (1, (f"resume={job.run.path}", "test=true"))
    from_saved(job.run, test.overrides)  # the run accepts them


@cache
def seeds() -> tuple[Space, Jobs]:
    space = read_space(["seed=1,2", "model=mlp", "trainer=cpu"], {})
    return space, Jobs(space)


class Sweeping:
    """A sweep of two runs, without processes: the same command is given again and again."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.settings = folder, Sweep(**settings)
        self.space, self.jobs = seeds()

    def command(self) -> Trials:
        worker = Worker(self.folder)
        worker._lock.release()  # as the system does when the process ends
        return Trials(
            self.folder, self.folder.name, self.space, self.settings, ["minimize"], 0, self.jobs.names, worker
        )

    def job(self, trials: Trials, trial: Trial) -> Job:
        return self.jobs.make_job(trial, self.folder, self.settings, "val/loss", trials, 1)


def claimed(trials: Trials) -> Trial:
    trial = trials.claim()
    assert trial is not None
    return trial


def report(section: dict[str, Any], values: dict[int, float]) -> None:
    """Train epochs with the pruning callback of a config."""
    callback: Any = Pruning(**{key: value for key, value in section.items() if key != "_target_"})
    reduce = SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision)
    trainer: Any = SimpleNamespace(is_global_zero=True, max_epochs=9, strategy=reduce)
    callback.on_train_start(trainer, None)
    for epoch, value in values.items():
        callback.on_measured(trainer, None, epoch, {"val/loss": value})


@pytest.mark.slow
@pytest.mark.parametrize(("pruner", "database"), [("median", False), ("halving", True)])
def test_a_run_that_was_killed_reports_to_its_new_trial(tmp_path: Path, pruner: str, database: bool) -> None:
    place = f"sqlite:///{tmp_path}/study.db" if database else None
    sweeping = Sweeping(tmp_path, pruner=pruner, storage=place)
    trials = sweeping.command()
    trial = claimed(trials)
    run = RunDirectory(tmp_path / trial.run)
    words = [word for word in sweeping.job(trials, trial).overrides if key_of(word) != "hydra.run.dir"]
    begun = compose(words, run.path)
    begun.save()
    report(begun.tree["callbacks"]["pruning"], {1: 0.5, 2: 0.4})
    for number in (1, 2):  # killed twice
        trials.record(trial, Outcome("failed", reason="killed", killed=True))
        trials = sweeping.command()
        trial = claimed(trials)
        assert (trial.number, trial.run) == (number, run.path.name)
        resumed = from_saved(run, sweeping.job(trials, trial).overrides)
        check_resume(resumed)
        resumed.save()
        section = resumed.tree["callbacks"]["pruning"]
        assert section == {**begun.tree["callbacks"]["pruning"], "trial": number}
        report(section, {number + 1: 0.4, number + 2: 0.3})
    values = trials.study.get_trials()[2].intermediate_values
    assert values == {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.3}


def test_a_run_that_diverged_gives_no_reports_to_its_retry(tmp_path: Path) -> None:
    sweeping = Sweeping(tmp_path, pruner="median", retry_failed=True)
    trials = sweeping.command()
    trial = claimed(trials)
    report(
        {"monitor": "val/loss", "storage": trials.storage, "study": trials.name, "trial": 0, "pruner": "median"},
        {1: 9.0},
    )
    trials.record(trial, Outcome("failed", reason="diverged"))
    for _ in range(2):  # its process ends, and another one claims it
        trials = sweeping.command()
        assert claimed(trials).number == 1
    assert trials.study.get_trials()[1].intermediate_values == {}


def test_a_resumed_run_of_a_moved_sweep_reports_to_the_study_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    sweeping = Sweeping(tmp_path / "there", pruner="median")
    trials = sweeping.command()
    trial = claimed(trials)
    run = tmp_path / "there" / trial.run
    run.mkdir()
    (run / "config.yaml").write_text("{}")
    words = sweeping.job(trials, trial).overrides
    assert f"callbacks.pruning.storage={tmp_path / 'there' / 'study.journal'}" in words
    assert "callbacks.pruning.study=there" in words


def test_without_a_pruner_a_resumed_run_keeps_its_config(tmp_path: Path) -> None:
    sweeping = Sweeping(tmp_path)
    trials = sweeping.command()
    trial = claimed(trials)
    run = tmp_path / trial.run
    run.mkdir()
    (run / "config.yaml").write_text("{}")
    assert [key_of(word) for word in sweeping.job(trials, trial).overrides] == ["resume"]
