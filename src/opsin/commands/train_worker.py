"""Run the other processes of a run: they do the same work as process 0, from the saved config, without output."""

import logging
import os
import sys
import traceback
import warnings
from dataclasses import replace

from opsin.commands.command_line import show_error
from opsin.commands.train import train
from opsin.config import RunConfig
from opsin.errors import Interrupted, UserError
from opsin.training.distributed.environment import launched
from opsin.training.distributed.processes import has_reported_failure, is_lost_connection, receive_run


def join() -> None:
    """Work on the run that process 0 has begun, then end this process.

    A failure is written to a file, and process 0 reports it once for all processes.
    """
    warnings.simplefilter("ignore")  # process 0 shows the same warnings
    logging.getLogger().setLevel(logging.ERROR)
    code, run = 1, None
    try:
        run, resumes = receive_run()
        train(replace(RunConfig.load(run), resumes=resumes))
        code = 0
    except Interrupted as stop:
        code = 128 + stop.signal if launched() else 0  # process 0 ends with that code itself
    except UserError as error:
        if run is None:
            show_error(error)
    except Exception as error:
        if not is_lost_connection(error) and not (run and has_reported_failure(run)):
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to write, and libraries may hang or crash at their ends
