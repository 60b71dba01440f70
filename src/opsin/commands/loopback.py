"""The rule by which the explorer and the dashboard answer requests.

Both bind 127.0.0.1 and answer 403 to a request with a foreign Host or Origin header. The explorer also answers 404 to
paths that its page does not need. The dashboard does not check requests with `--bind_all` or another `--host`.
"""

from urllib.parse import urlsplit

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
"""Names of this machine that a Host header may give."""


def foreign_request(host: str, origin: str | None) -> str:
    """Return why a request does not come from the page itself in a browser on this machine; empty if it does.

    Args:
        host: The Host header. A web site whose domain name resolves to 127.0.0.1 sends its own name.
        origin: The Origin header, which browsers send with posts and with requests of other pages.
    """
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in LOOPBACK:
        return "This page is available on 127.0.0.1 only."
    return "" if origin in (None, f"http://{host}") else "This page accepts requests of its own only."
