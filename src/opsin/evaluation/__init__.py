"""Statistics of predictions, the report of a run, and the comparison of runs; imports neither torch nor Lightning."""
