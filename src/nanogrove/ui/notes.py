"""Tags and notes that a person writes about a run or a study: `notes.json` in its folder."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from nanogrove.atomic import read_file, refusal, write_file
from nanogrove.errors import RunError
from nanogrove.json_reading import BadJsonError, parse_json
from nanogrove.record.folder import refuse_link
from nanogrove.settings import Settings, reason

FILE = "notes.json"
FILE_BYTES = 1 << 20  # at most
MAX_TAGS, TAG_CHARACTERS, NOTE_CHARACTERS = 20, 40, 10_000


class Notes(Settings):
    """What a person wrote: short tags, each once, and a note of any lines."""

    tags: list[Annotated[str, Field(min_length=1, max_length=TAG_CHARACTERS)]] = Field([], max_length=MAX_TAGS)
    note: str = Field("", max_length=NOTE_CHARACTERS)

    def digest(self) -> str:
        """What tells these notes from all others."""
        return hashlib.sha256(self.model_dump_json().encode(errors="backslashreplace")).hexdigest()[:16]


def parse_notes(tags: str, note: str) -> Notes:
    """Notes from what a form holds, where commas are between tags. Raises RunError for too much of it."""
    names = dict.fromkeys(" ".join(tag.split()) for tag in tags.split(","))
    try:
        return Notes(tags=[name for name in names if name], note=note.replace("\r\n", "\n").strip())
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        limits = f"{MAX_TAGS} tags of {TAG_CHARACTERS} characters and a note of {NOTE_CHARACTERS:,}"
        raise RunError(f"{key}: too long; there is room for {limits}") from None


def read_notes(folder: Path) -> Notes:
    """The notes of a folder, empty where there are none. Raises RunError for a damaged file, and for a link."""
    path = folder / FILE
    try:
        return Notes.model_validate(parse_json(read_file(path, FILE_BYTES)))
    except FileNotFoundError:
        return Notes()
    except OSError as error:
        why = error.strerror
    except BadJsonError as error:
        why = str(error)
    except ValidationError as error:
        why = reason(error.errors())
    raise RunError(f"{path}: cannot be read ({why}); mend it, or move it away and write the notes anew")


def write_notes(folder: Path, notes: Notes, seen: str) -> None:
    """Writes the notes of a folder, whole or not at all.

    Raises RunError where it holds other notes by now than those of the digest `seen`, and when the disk refuses.
    """
    refuse_link(folder)
    if read_notes(folder).digest() != seen:
        raise RunError("the notes were changed elsewhere meanwhile; copy yours, and load this page again to see those")
    text = json.dumps(notes.model_dump(), indent=1) + "\n"
    try:
        write_file(folder / FILE, text.encode())
    except OSError as error:
        raise RunError(f"{folder / FILE}: cannot be written {refusal(error)} and save again") from None
