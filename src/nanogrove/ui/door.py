"""Who may come in: the browser to which the printed address was given, and nobody else.

Any web page can send requests to a port of this machine, and so can all of its users. So the address holds a secret,
which the browser keeps as a cookie after the first request; `Host` has to name this machine, so that a name that was
pointed here (DNS rebinding) is of no use; and what changes something has to come from a page of this server.
"""

import hmac
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanogrove.serve.door import LOOPBACK

KEY = "key"  # of the secret in the address
HEADERS = {
    # Plotly sets styles inline; a style can draw nonsense but tell nobody anything.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Door:
    """Refuses requests before anything reads them.

    Args:
        app: What is inside.
        secret: What the address has to hold, or the cookie.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers that it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to who may not come in, or not yet; None for who may."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if _host_name(host) not in LOOPBACK:
            return _refused("this server answers to the printed address only, and Host names another", 421)
        reads = scope["method"] in ("GET", "HEAD")
        if origin != f"http://{host}" and not (reads and origin is None):
            return _refused("pages of other sites may not use this server", 403)
        # Cookies do not know ports: this one is named by its port, so that two servers keep one each, and it comes
        # together with those of any other server of this machine, of whatever form.
        name = f"nanogrove-{host.rpartition(':')[2]}"
        cookies = (each.strip().partition("=") for each in headers.get("cookie", "").split(";"))
        if any(known == name and self._is_secret(value) for known, _, value in cookies):
            return None
        words = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not reads or not self._is_secret(dict(words).get(KEY, "")):
            return _refused("give the address that `nanogrove ui` printed, with its key", 403)
        rest = urlencode([(word, value) for word, value in words if word != KEY], encoding="latin-1")
        path = scope["path"] if re.fullmatch("/[a-z]*", scope["path"]) else "/"  # never `//`, which is elsewhere
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)  # so that the key stays in no address bar
        answer.set_cookie(name, self._secret.decode(), path="/", httponly=True, samesite="lax")
        return answer

    def _is_secret(self, value: str) -> bool:
        return hmac.compare_digest(value.encode("utf-8", "replace"), self._secret)


def _host_name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.port != 0 else None  # ValueError for what is not a number
    except ValueError:
        return None


def _refused(message: str, status: int) -> Response:
    """A page of one line; the style sheet of the others is inside the door."""
    return HTMLResponse(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Refused</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '</head><body style="font: 1rem/1.6 system-ui, sans-serif; margin: 1.25rem"><main>'
        f"<h1>nanogrove ui</h1><p>{message}</p></main></body></html>\n",
        status,
    )
