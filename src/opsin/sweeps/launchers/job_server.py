"""The server from which jobs are forked imports this module first."""

from opsin.runs.garbage_collection import pause_collection

pause_collection()
