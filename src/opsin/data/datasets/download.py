"""Files from mirrors, checked before they are trusted; and what to say when there is no network."""

import hashlib
import http.client
import logging
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import wrap_file

from opsin.errors import UserError

_LOG = logging.getLogger(__name__)
_ROUNDS = 2  # through all mirrors
_TIMEOUT = 15.0  # seconds without a byte


class DownloadError(Exception):
    """Why no mirror gave a file: one line per address and reason."""


def fetch(mirrors: Sequence[str], name: str, md5: str) -> bytes:
    """The file `name` from the first mirror that has it with this checksum.

    Args:
        mirrors: URLs ending in a slash, the most reliable first.
        name: The file's name below a mirror.
        md5: Its checksum, in hexadecimal.

    Raises:
        DownloadError: No mirror gave it.
    """
    reasons: dict[str, None] = {}  # in order, each once
    for mirror in [*mirrors] * _ROUNDS:
        url = mirror + name
        _LOG.info("downloading %s", url)
        try:
            content = _fetch(url)
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            reasons[f"{url}: {error or type(error).__name__}"] = None
            continue
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if digest == md5:
            return content
        reasons[f"{url}: its md5 is {digest}, not {md5}"] = None
    raise DownloadError("\n  ".join(reasons))


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "opsin"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        console = Console(stderr=True)
        with wrap_file(
            response,
            total,
            description=Path(url).name,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as body:
            return body.read()


def missing_data(title: str, files: str, places: Iterable[Path], reason: str) -> UserError:
    """The one message for data that are neither here nor to be had: what to put where, and what works offline.

    Args:
        title: The dataset, as a person calls it.
        files: What is needed, in words.
        places: Where it is looked for, the best place first.
        reason: Why it could not be fetched.
    """
    best, *others = [str(place.absolute()) for place in places]
    also = "".join(f"\n  (or {other})" for other in others)
    return UserError(
        f"{title} is not here: {reason}\n"
        f"Put {files} into\n  {best}{also}\n"
        "or say where it is with datamodule.path=FOLDER.\n"
        "Without network, datamodule=digits works: its images come with scikit-learn."
    )
