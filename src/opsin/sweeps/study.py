"""Optuna storage, samplers and trials of a sweep.

The private names of Optuna that Opsin uses are here only, written for Optuna 5.0: `Study._study_id`, `Study._storage`
and `FrozenTrial._trial_id`. `tests/sweeps/test_study.py` fails with the name that a new version of Optuna has changed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from opsin.config.secrets import reveal
from opsin.errors import UserError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Sampler = Literal["grid", "random", "tpe", "cmaes"]
Pruner = Literal["none", "median", "halving"]


def open_storage(place: str) -> "BaseStorage":
    """Open a storage: the URL of a database, or the path of a journal, which is created if it does not exist.

    Any number of processes may have it open, on any machine that reaches it.
    """
    from optuna.storages import JournalStorage, RDBStorage

    from opsin.sweeps.journal import Journal

    place = reveal(place)
    if "://" in place:
        return RDBStorage(place)
    return JournalStorage(Journal(place))


def make_sampler(kind: Sampler, seed: int, number: int) -> "BaseSampler":
    """Return the sampler that suggests the values of one trial, a function of the seed and the earlier trials.

    Args:
        kind: `tpe` (tree-structured Parzen estimator, Bergstra et al. 2011, Algorithms for Hyper-Parameter
            Optimization), `cmaes` (Hansen, arXiv:1604.00772) or `random`; for `grid` nothing is sampled.
        seed: Seed of the sweep.
        number: Number of the trial.
    """
    from optuna import samplers

    seed = (seed * 1_000_003 + number) % 2**32
    if kind == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True)  # running trials count as bad
    if kind == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)


def silence_optuna() -> None:
    """Silence the messages of Optuna, because Opsin reports the trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def trial_at(place: str, name: str, number: int, pruner: "BasePruner") -> Any:
    """Return a trial that another process has begun, to report values to.

    Args:
        place: URL or path of the storage.
        name: Name of the study.
        number: Number of the trial.
        pruner: Decides whether the trial is pruned.
    """
    import optuna

    if "://" not in place and not Path(place).is_file():
        raise UserError(f"{place} is not the journal of a sweep: callbacks.Pruning works in the runs of a sweep only")
    silence_optuna()
    storage = open_storage(place)
    # A sampler that reads no other trials, because nothing is sampled here.
    study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(), pruner=pruner)
    return optuna.trial.Trial(study, storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def running_trial(study: "Study", trial: "FrozenTrial") -> Any:
    """Return a trial of a study for suggestions and reports."""
    from optuna.trial import Trial

    return Trial(study, trial._trial_id)


def set_attribute(study: "Study", trial: "FrozenTrial", key: str, value: Any) -> None:
    """Set a user attribute of a trial that may belong to another process."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def has_report(trial: Any, step: int) -> bool:
    """Return whether a value was reported to a running trial at a step."""
    return step in trial.storage.get_trial(trial._trial_id).intermediate_values


def is_finished(trial: Any) -> bool:
    """Return whether a trial is complete, pruned or failed, so that nothing more can be reported to it."""
    return bool(trial.storage.get_trial(trial._trial_id).state.is_finished())
