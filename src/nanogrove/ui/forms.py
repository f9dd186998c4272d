"""The fields of a form that a browser sends."""

from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request

from nanogrove.ui.bodies import body_of

MAX_FIELDS = 1000


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises HTTPException for one that is too large, or too slow."""
    body = await body_of(request)
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(413, f"the form has more than {MAX_FIELDS:,} fields") from None
    return {name: values[0] for name, values in fields.items()}
