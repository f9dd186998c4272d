"""The port: where the server listens, whom it lets in there, and for how long it waits for them."""

import errno
import ipaddress
import socket
from asyncio import BaseTransport, TimerHandle, Transport
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanogrove.errors import PresetError
from nanogrove.serve.door import LOOPBACK

HEADER_SECONDS = 10.0  # from a connection to the end of its first request's headers
IDLE_SECONDS, ENDING_SECONDS = 30, 1  # of a connection between requests; of answers, once Ctrl-C was pressed
MAX_CONNECTIONS = 512
KEY_VARIABLE = "NANOGROVE_API_KEY"
REFUSALS = {
    errno.EADDRINUSE: "port {port} of {host} is in use; choose another with --port, or --port 0 for any that is free",
    errno.EACCES: "port {port} may be opened by an administrator only; choose one above 1023 with --port",
    errno.EADDRNOTAVAIL: "--host {host}: this machine has no such address; leave it out for 127.0.0.1",
}


class Address(NamedTuple):
    """A socket that listens.

    Args:
        socket: It.
        url: Where clients find it.
        hosts: Names that `Host` may have; None where who has the key comes from anywhere.
    """

    socket: socket.socket
    url: str
    hosts: frozenset[str] | None


def listen(host: str, port: int, key: str | None) -> Address:
    """Opens a port, any that is free where it is 0.

    Raises PresetError for a key that no header can carry, for an address that others reach, without a key, and for one
    that cannot be opened.
    """
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise PresetError(f"{KEY_VARIABLE}: a key consists of printable ASCII characters, without blanks around it")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise PresetError(f"--host {host}: no such address ({error}); leave it out for 127.0.0.1") from None
    here = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not here and key is None:
        raise PresetError(
            f"--host {host}: other machines reach it, so clients need a key: set {KEY_VARIABLE}, or leave out --host"
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(MAX_CONNECTIONS)
    except OSError as error:
        listening.close()
        text = REFUSALS.get(error.errno or 0, "--host {host} --port {port}: cannot be opened ({reason})")
        raise PresetError(text.format(host=host, port=port, reason=error.strerror)) from None
    shown = f"[{host}]" if ":" in host else host
    return Address(
        listening, f"http://{shown}:{listening.getsockname()[1]}", LOOPBACK | {host.lower()} if here else None
    )


class Connection(H11Protocol):
    """A connection that is closed where the headers of its first request take too long, or what comes is not HTTP."""

    _late: TimerHandle

    def connection_made(self, transport: BaseTransport) -> None:
        """Begins to wait."""
        assert isinstance(transport, Transport)
        super().connection_made(transport)
        self._late = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Reads what has come."""
        super().data_received(data)
        if self.cycle is not None:
            self._late.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, where no answer has begun; for what was to answer, the client is gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait."""
        self._late.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """Serves until Ctrl-C or SIGTERM, with `run(sockets=[…])`; then `stop` ends what is under way."""

    def __init__(self, app: ASGIApp, stop: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=ENDING_SECONDS,
        )
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to end; a second signal changes nothing, where uvicorn would leave at once, with a trace."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends requests, connections and the application."""
        self._stop()
        await super().shutdown(sockets)
