"""The bodies of requests, within limits of size and time."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES, BODY_SECONDS = 1 << 17, 15.0


async def body_of(request: Request) -> bytes:
    """The body of a request. Raises HTTPException for one that is too large, or too slow."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"the request has more than {MAX_BODY_BYTES:,} bytes")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "the request did not come whole") from None
    return body
