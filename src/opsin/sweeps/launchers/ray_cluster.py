"""The way to a Ray cluster, and what its nodes have room for."""

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

REACH_S = 5.0
"""Seconds that the head of a cluster has to answer."""


def connect(address: str | None) -> Any:
    """Connect to a cluster.

    Args:
        address: as in `Ray`.

    Returns:
        The module `ray`.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError(
            "launcher=ray needs Ray, which is not installed: pip install -c constraints.txt -e '.[ray]', or take "
            "launcher=local"
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
    ):  # Ray would leave a token in the home directory, for later clusters too
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", **quiet, **here)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = textwrap.shorten(str(error), 300)
        raise UserError(f"launcher=ray: no Ray at launcher.address={address or 'null'} ({said}): {way_out}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray sets one of its own, and the sweep has its own
    # Of a process that died Ray prints pages, also without its logs; each job that died with it tells its reason.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _check_answers(address: str, way_out: str) -> None:
    """Find out within seconds what Ray would try for much longer."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"launcher.address={address} is no auto, host:port, ray://host:port or null")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise UserError(f"launcher=ray: nothing answers at launcher.address={address} ({error}): {way_out}") from None


def room(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many jobs a node has room for, while it has no others."""
    return min(int(node.get(name, 0) / amount + 1e-6) for name, amount in needs.items() if amount)


def in_words(needs: Mapping[str, float]) -> str:
    """What a job takes of its node, for a person to read: `1 CPU, 0.5 GPU, 8 GB of memory`."""
    shown = {name: amount for name, amount in needs.items() if amount and name != "memory"}
    words = [f"{amount:g} {name}" for name, amount in shown.items()]
    return ", ".join([*words, *([f"{memory / 1e9:g} GB of memory"] if (memory := needs["memory"]) else [])])
