"""Connect to a Ray cluster, and count the jobs that fit on its nodes."""

import importlib
import logging
import os
import secrets
import signal
import socket
import textwrap
import threading
from collections.abc import Mapping
from typing import Any

from opsin.errors import UserError

CONNECT_TIMEOUT_S = 5.0
"""Seconds for the head of a cluster to answer."""


def connect(address: str | None) -> Any:
    """Connect to a cluster.

    Args:
        address: As in `Ray`.

    Returns:
        The module `ray`.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError(
            "launcher=ray needs Ray, which is not installed: pip install 'opsin[ray]', or use launcher=local"
        ) from None
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    way_out = (
        "start one (`ray start --head`; on each further node `ray start --address=HEAD:6379`), name another "
        "(launcher.address=HOST:6379), or let Opsin start one on this machine (launcher.address=null)"
    )
    if address not in (None, "auto", "local"):
        _check_answers(str(address), way_out)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    here: dict[str, Any] = {"include_dashboard": False} if address in (None, "local") else {}
    if (
        here and "RAY_AUTH_MODE" not in os.environ
    ):  # otherwise Ray writes a token to the home directory, also for later clusters
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", **quiet, **here)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        message = textwrap.shorten(str(error), 300)
        raise UserError(
            f"launcher=ray: no Ray cluster at launcher.address={address or 'null'} ({message}): {way_out}"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray replaces the handler of the sweep
    # Ray prints pages about a process that died, even without its logs; each job reports its own reason.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _check_answers(address: str, way_out: str) -> None:
    """Refuse an address that does not answer within seconds; Ray would try for much longer."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"launcher.address must be auto, HOST:PORT, ray://HOST:PORT or null, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"launcher=ray: no Ray cluster at launcher.address={address} ({error}): {way_out}") from None


def jobs_that_fit(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return the number of jobs that fit on a node without other jobs."""
    return min(int(node.get(name, 0) / amount + 1e-6) for name, amount in needs.items() if amount)


def format_needs(needs: Mapping[str, float]) -> str:
    """Return the resources of a job as text: `1 CPU, 0.5 GPU, 8 GB of memory`."""
    amounts = {name: amount for name, amount in needs.items() if amount and name != "memory"}
    parts = [f"{amount:g} {name}" for name, amount in amounts.items()]
    return ", ".join([*parts, *([f"{memory / 1e9:g} GB of memory"] if (memory := needs["memory"]) else [])])
