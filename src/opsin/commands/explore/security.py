"""Restrict the explorer's server to loopback and to the needed paths, and set the browser's security headers."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opsin.commands.loopback import foreign_request

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

ALLOWED_PATHS = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte|report)/.+"
    r"|/gradio_api/(info|app_id|startup-events|queue/join|queue/data|upload|upload_progress|cancel|reset|theme\.css)/?"
    r"|/gradio_api/heartbeat/\w+|/gradio_api/file=.+"
)
"""The paths that the page needs. Gradio serves many more: a proxy, downloads by URL, an editor of its own code."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""The browser contacts this server only. Gradio's pages need inline scripts, and `eval` for their templates."""

REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A report consists of images and text: it runs no scripts, sends no requests and cannot access the explorer."""


class LoopbackOnly:
    """Middleware that answers only requests from a browser on this machine, and only for the paths the page needs.

    The check of the Host header stops web sites whose domain name resolves to 127.0.0.1 (DNS rebinding); the check of
    the Origin header stops posts from other pages. All other paths that Gradio serves return 404.

    Args:
        app: The application that answers allowed requests.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Forward a request to the application, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = _refusal(scope["path"], headers.get(b"host", ""), headers.get(b"origin"))
        if refusal:
            status, text = refusal
            plain = [(b"content-type", b"text/plain; charset=utf-8"), *_security_headers(POLICY)]
            await send({"type": "http.response.start", "status": status, "headers": plain})
            await send({"type": "http.response.body", "body": text.encode()})
            return
        added = _security_headers(REPORT_POLICY if scope["path"].startswith("/report/") else POLICY)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _refusal(path: str, host: str, origin: str | None) -> tuple[int, str] | None:
    """Return the status and text of a refused request, None for an allowed one; `path` is percent-decoded."""
    if reason := foreign_request(host, origin):
        return 403, reason
    below = path.partition("/file=")[2]
    if not ALLOWED_PATHS.fullmatch(path) or ".." in path.split("/") or "\\" in path or "://" in below:
        return 404, "Not found."
    return None


def _security_headers(policy: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
