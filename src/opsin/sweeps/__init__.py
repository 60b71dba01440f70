"""Many runs of one command: search space, Optuna study, launchers. `sweep.py` is the entry point."""
