"""Run directories to pages: the report of a run, and the comparison of several; without torch and Lightning."""
