"""The forms that a browser sends: their fields, and notes that are saved from one."""

import asyncio
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request

from nanogrove.errors import RunError
from nanogrove.ui.bodies import body_of
from nanogrove.ui.notes import Notes, parse_notes, write_notes

MAX_FIELDS = 1000


class Unsaved(NamedTuple):
    """Notes as they were typed, the digest of those that they were to replace, and why they are not saved."""

    notes: Notes
    seen: str
    problem: str


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises HTTPException for one that is too large, or too slow."""
    body = await body_of(request)
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(413, f"the form has more than {MAX_FIELDS:,} fields") from None
    return {name: values[0] for name, values in fields.items()}


async def save_notes(request: Request, folder: Path) -> Unsaved | None:
    """Saves the notes of a folder that a form holds; None once they are saved, else what was typed and why."""
    words = await read_form(request)
    seen = words.get("seen", "")
    try:
        await asyncio.to_thread(write_notes, folder, parse_notes(words.get("tags", ""), words.get("note", "")), seen)
    except RunError as error:
        typed = Notes.model_construct(tags=[words.get("tags", "")], note=words.get("note", ""))
        return Unsaved(typed, seen, str(error))
    return None
