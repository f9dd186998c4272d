"""Who may come in: any web page can reach a port of this machine, and so can whoever shares its network.

A server of this machine alone answers only to its own names in `Host`, so that a page whose name was pointed here
(DNS rebinding) is refused; with an API key, only to who has it. A page of another origin is refused in any case.
"""

import hmac
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nanogrove.serve.wire import error_body

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})  # names of this machine


class Door:
    """Refuses requests before anything reads them.

    Args:
        app: What is inside.
        hosts: Names that `Host` may have; None for any.
        key: What `Authorization: Bearer` must hold; None for nothing.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None, key: str | None) -> None:
        self._app, self._key = app, None if key is None else key.encode()
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers that it is refused."""
        if scope["type"] == "http":
            refusal = self._refusal(Headers(scope=scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if self._hosts is not None and _split(f"//{host}").hostname not in self._hosts:
            return refused("this server answers to its own address only, and Host names another", 421)
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            return refused("pages of other sites may not use this server", 403)
        if self._key is not None:
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._key):
                answer = refused("this server needs its API key, as Authorization: Bearer KEY", 401, "invalid_api_key")
                answer.headers["WWW-Authenticate"] = "Bearer"
                return answer
        return None


def refused(message: str, status: int, code: str | None = None, param: str | None = None) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    return JSONResponse(error_body(message, status, param, code), status)


def _split(address: str) -> SplitResult:
    """The parts of an address; none of what is not one."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
