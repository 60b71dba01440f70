"""Values of a sweep are checked before its first run starts."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from sweep_commands import finish

from opsin.commands import train_cli
from opsin.config import RunConfig, compose
from opsin.config.compose import compose_trial
from opsin.errors import UserError
from opsin.sweeps.search_space import Listed, Ranged, Space
from opsin.sweeps.sweep import sweep
from opsin.sweeps.value_check import MOST_TRIES, MOST_VALUES, Check, check_process, check_values


class Checked:
    """A check that refuses some combinations of overrides, and counts its calls."""

    def __init__(self, *refused: Sequence[str]) -> None:
        self.refused, self.calls = refused, list[tuple[str, ...]]()

    def __call__(self, overrides: Sequence[str]) -> str:
        self.calls.append(tuple(overrides))
        for combination in self.refused:
            if {*combination} <= {*overrides}:
                raise UserError(f"{' '.join(combination)} is wrong")
        return " ".join(overrides)


def listed(**keys: str) -> Space:
    return Space(("x=1",), tuple(Listed(key, tuple(values.split(","))) for key, values in keys.items()))


def test_each_value_is_checked_once_with_the_first_values_of_the_others() -> None:
    checked = Checked()
    found = check_values(listed(a="k,l,m", b="4,5"), checked, ())
    assert checked.calls == [
        ("x=1", "a=k", "b=4"),
        ("x=1", "a=l", "b=4"),
        ("x=1", "a=m", "b=4"),
        ("x=1", "a=k", "b=5"),
    ]
    assert found[0] == "x=1 a=k b=4"


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ("3,1,2,0", ["3", "0"]),
        ("0.1,1,0.2,2,0.3,3", ["0.1", "1", "0.3", "3"]),
        ("5,-1e3,null,2.5,true,7,1e-3,6", ["5", "-1e3", "null", "2.5", "true", "7"]),
        ("1,1", ["1"]),
    ],
)
def test_of_numbers_only_the_ends_are_checked(values: str, ends: list[str]) -> None:
    checked = Checked()
    check_values(listed(a=values), checked, ())
    assert [overrides[-1] for overrides in checked.calls] == [f"a={value}" for value in ends]


@pytest.mark.parametrize("values", ["1,2,3", "3,1,2", "2,3,1"])
def test_a_value_with_which_no_run_can_start_is_named(values: str) -> None:
    with pytest.raises(UserError, match=r"^a=3 is wrong$"):
        check_values(listed(b="4,5", a=values), Checked(["a=3"]), ())


def test_a_message_that_begins_with_the_value_does_not_repeat_it() -> None:
    def check(overrides: Sequence[str]) -> RunConfig:
        return compose_trial(overrides)

    with pytest.raises(UserError, match=r"^optimizer=adamm is not known: did you mean"):
        check_values(Space((), (Listed("optimizer", ("adam", "adamm")),)), check, ("optimizer",))
    with pytest.raises(UserError, match=r"^seed=\$\{x\}: The config cannot be resolved"):
        check_values(Space((), (Listed("seed", ("1", "${x}")),)), check, ())


@pytest.mark.parametrize("refused", [["a=1", "b=4"], ["a=2", "b=4"], ["a=2", "b=5"]])
def test_a_combination_that_is_wrong_is_left_to_its_run(refused: list[str]) -> None:
    assert check_values(listed(a="1,2", b="4,5"), Checked(refused), ())


@pytest.mark.parametrize("refused", ["x=1", "b=4"])
def test_an_error_of_every_run_names_no_value(refused: str) -> None:
    with pytest.raises(UserError, match=rf"^{refused} is wrong$"):
        check_values(listed(a="1,2", b="4"), Checked([refused]), ())


def test_both_ends_of_a_range_are_tried() -> None:
    space = Space((), (Listed("a", ("1", "2")), Ranged("b", 0.5, 1.5)))
    assert check_values(space, Checked(["a=2", "b=0.5"]), ())
    with pytest.raises(UserError, match=r"^a=2 is wrong$"):
        check_values(space, Checked(["a=2"]), ())


def test_the_number_of_checks_is_limited() -> None:
    seeds = ",".join(map(str, range(1000)))
    checked = Checked()
    check_values(listed(seed=seeds, model="a,b"), checked, ("model",))
    assert checked.calls[1] == ("x=1", "seed=0", "model=b")  # options of groups first
    assert len(checked.calls) == 3
    checked = Checked()
    check_values(listed(model=",".join(f"m{number}" for number in range(1000))), checked, ("model",))
    assert len(checked.calls) == MOST_VALUES
    checked = Checked(["x=1"])
    with pytest.raises(UserError):
        check_values(listed(seed=seeds), checked, ())
    assert len(checked.calls) == MOST_TRIES


def load_faults() -> Check:
    """Load a check that does what the seed of a config says."""

    def check(composed: RunConfig) -> None:
        seed = composed.tree["seed"]
        if seed == 1:
            raise UserError("refused")
        if seed == 2:
            raise ZeroDivisionError
        if seed == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 4:
            Path(composed.tree["output_dir"], "pid").write_text(str(os.getpid()))

    return check


@pytest.mark.slow
def test_a_process_checks_configs_and_ends(tmp_path: Path) -> None:
    configs = [compose([f"seed={seed}", f"output_dir={tmp_path}"]) for seed in range(5)]
    with check_process(load_faults) as check:
        check(configs[0])
        with pytest.raises(UserError, match=r"^refused$"):
            check(configs[1])
        check(configs[2])  # code of the user fails: the run reports it
        check(configs[4])
        process = int((tmp_path / "pid").read_text())
        assert process != os.getpid()
        check(configs[3])  # the process ends
        check(configs[1])
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.slow
def test_a_value_of_a_wrong_type_is_refused_before_the_first_run(tmp_path: Path) -> None:
    printed = finish(tmp_path, "model.hidden=16,big", "seed=1,2", code=1)
    assert "model.hidden=big: The config cannot be used:" in printed
    assert "model.hidden should be a valid integer, not 'big'  [set on the command line (model.hidden=big)]" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_typed_variable_permits_a_target_in_the_check(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPSIN_TARGETS", raising=False)
    fault = ["+callbacks.fault._target_=faults.Fault", "+callbacks.fault.kind=none,wrong"]
    with pytest.raises(UserError, match=r"(?s)callbacks\.fault\.kind=wrong: .*kind should be"):
        sweep(["launcher=slurm", "+hydra.job.env_set.OPSIN_TARGETS=faults", *fault], load_check=train_cli.load_check)
