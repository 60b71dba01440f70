"""Download files from mirrors and check them; the message for data that are missing."""

import hashlib
import http.client
import logging
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.progress import wrap_file

from opsin.errors import UserError
from opsin.runs.rich_console import TerminalConsole

_LOG = logging.getLogger(__name__)
_ROUNDS = 2  # attempts with each mirror
_READ_S = 15.0  # seconds without a byte


class MissingData(UserError):  # noqa: N818 - names the state of a dataset
    """The images of a dataset are not on this machine."""


class DownloadError(Exception):
    """No mirror has a file; the message has one line per address and reason."""


def fetch(mirrors: Sequence[str], name: str, md5: str) -> bytes:
    """Download a file from the first mirror that has it with this checksum.

    Args:
        mirrors: URLs ending in a slash, the most reliable first.
        name: The file's name below a mirror.
        md5: The file's MD5 checksum, in hexadecimal.

    Raises:
        DownloadError: No mirror has the file.
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
    with urllib.request.urlopen(request, timeout=_READ_S) as response:
        total = int(response.headers.get("Content-Length") or 0)
        console = TerminalConsole(stderr=True)
        with wrap_file(
            response,
            total,
            description=Path(url).name,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as body:
            return body.read()


def missing_data(title: str, files: str, folders: Iterable[Path], reason: str) -> MissingData:
    """Return the error for missing data: the files, the folders for them, and a dataset that works offline.

    Args:
        title: Name of the dataset, for the message.
        files: Description of the needed files.
        folders: Folders that are searched, the preferred one first.
        reason: Why the data could not be downloaded.
    """
    best, *others = [str(folder.absolute()) for folder in folders]
    also = "".join(f"\n  (or {other})" for other in others)
    return MissingData(
        f"{title} was not found: {reason}\n"
        f"Put {files} into\n  {best}{also}\n"
        "or name their folder with datamodule.path=FOLDER.\n"
        "Without internet access, use datamodule=digits: its images are part of scikit-learn."
    )
