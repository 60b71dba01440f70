"""Mask the values of secrets in text that is printed or written, such as the message of a library's exception.

`opsin.config.secrets.reveal` registers each value that it hands out. Registered values and the passwords of URLs are
masked.
"""

import json
import logging
import re
import urllib.parse

SHORTEST = 6
"""Minimum length of a masked value; a shorter one, such as `test`, also occurs in unrelated text."""

URL_PASSWORD = re.compile(r"(?<=\w://)[^/@\s:]*:((?:(?!\$\{)[^/@\s])+)@")
"""The user and the literal password of a URL such as `postgresql://user:password@host/database`."""

_references: dict[str, str] = {}
"""The reference to show in place of each text that holds a secret."""


def register_secret(value: str, reference: str) -> None:
    """Mask a value from now on, also as it is written in a URL, in JSON and in Python code.

    Args:
        value: The secret.
        reference: The text to show in its place, such as `${oc.env:WANDB_API_KEY}`.
    """
    if len(value) >= SHORTEST:
        forms = (value, urllib.parse.quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1])
        _references.update(dict.fromkeys(forms, reference))


def mask_secrets(text: str) -> str:
    """Return a text with the reference in place of each registered secret, and `***` for the passwords of URLs."""
    for value in sorted(_references, key=len, reverse=True):  # one secret may be part of another
        text = text.replace(value, _references[value])
    return URL_PASSWORD.sub(lambda match: f"{match[0].removesuffix(f'{match[1]}@')}***@", text)


class MaskSecrets(logging.Filter):
    """Filter of a log handler that masks secrets in messages and tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place; every record passes."""
        message = record.getMessage()
        if (masked := mask_secrets(message)) != message:
            record.msg, record.args = masked, None
        if record.exc_info:  # a formatter uses this text if it is there
            record.exc_text = mask_secrets(logging.Formatter().formatException(record.exc_info))
        return True
