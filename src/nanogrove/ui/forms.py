"""The fields of a form that a browser sends."""

import asyncio
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES, BODY_SECONDS = 1 << 17, 15.0
MAX_FIELDS = 1000


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises HTTPException for one that is too large, or too slow."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"the form has more than {MAX_BODY_BYTES:,} bytes")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "the form did not come whole") from None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(413, f"the form has more than {MAX_FIELDS:,} fields") from None
    return {name: values[0] for name, values in fields.items()}
