"""What the explorer's server answers at all: to whom, which addresses, and what a page may do in the browser."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte|report)/.+"
    r"|/gradio_api/(info|app_id|startup-events|queue/join|queue/data|upload|upload_progress|cancel|reset|theme\.css)/?"
    r"|/gradio_api/heartbeat/\w+|/gradio_api/file=.+"
)
"""All addresses that the page needs. Gradio has many more: a proxy, downloads by address, an editor of its own code."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""The browser asks nobody but this server; Gradio's pages need inline scripts, and `eval` for their templates."""

REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A report is a page of pictures and text: no scripts, no requests, no access to the explorer."""


class LoopbackOnly:
    """Answers only what comes from this machine's own browser, for the addresses that the page needs.

    A page of some web site cannot reach the explorer through a name that it points at 127.0.0.1 (the host is
    checked), nor post to it (the origin is). What Gradio serves beyond the page is not found.

    Args:
        app: The application behind.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = _refusal(scope["path"], headers.get(b"host", ""), headers.get(b"origin"))
        if refusal:
            status, text = refusal
            plain = [(b"content-type", b"text/plain; charset=utf-8"), *_guards(POLICY)]
            await send({"type": "http.response.start", "status": status, "headers": plain})
            await send({"type": "http.response.body", "body": text.encode()})
            return
        guards = _guards(REPORT_POLICY if scope["path"].startswith("/report/") else POLICY)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *guards]}
            await send(message)

        await self.app(scope, receive, guarded)


def _refusal(path: str, host: str, origin: str | None) -> tuple[int, str] | None:
    """Status and text where a request is refused, else None; `path` is without percent signs already."""
    if urlsplit(f"//{host}").hostname not in LOOPBACK:
        return 403, "The explorer answers on 127.0.0.1 only."
    if origin is not None and origin != f"http://{host}":
        return 403, "The explorer answers its own page only."
    below = path.partition("/file=")[2]
    if not OPEN.fullmatch(path) or ".." in path.split("/") or "\\" in path or "://" in below:
        return 404, "Not found."
    return None


def _guards(policy: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
