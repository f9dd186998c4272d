"""JSON of unknown origin: read within limits of size and depth, and what is wrong with it in plain words."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 16_000_000  # of a file; its objects take up to twenty times as much


class BadJsonError(ValueError):
    """A text that is not JSON, or not within the limits; says why."""


def parse_json(text: str | bytes) -> object:
    """The value that a text holds. Raises BadJsonError."""
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise BadJsonError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise BadJsonError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadJsonError(
            f"{error.msg[:1].lower()}{error.msg[1:]}: line {error.lineno} column {error.colno}"
        ) from None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise BadJsonError("it has a number of too many digits") from None
    return value


def read_json(path: Path) -> object:
    """The value that a file holds. Raises BadJsonError, and OSError for a file that cannot be read."""
    return parse_json(read_bytes(path))


def read_lines(file: BinaryIO, whole: bool = False) -> Iterator[str]:
    """The lines of a file of JSON lines, one after the other; a last line cut short by a kill is left out.

    Raises BadJsonError for a line of more than `MAX_BYTES`, and for a last line cut short of a file that is to be
    `whole`; OSError for a file that cannot be read.
    """
    for number in count(1):
        line = file.readline(MAX_BYTES + 1)
        if len(line) > MAX_BYTES:
            raise BadJsonError(f"line {number} has more than {MAX_BYTES:,} bytes")
        if not line.endswith(b"\n"):
            if line and whole:
                raise BadJsonError(f"line {number} is cut short")
            return
        yield line.decode("utf-8", "replace")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that a user names: a link, or a pipe such as `<(command)`, is read as well.

    `atomic.read_file` is for a folder that may be a stranger's, and refuses both. Raises BadJsonError for too many
    bytes, and OSError for a file that cannot be read.
    """
    with path.open("rb") as file:  # devices have no size, so that only reading tells
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadJsonError(f"it has more than {MAX_BYTES:,} bytes")
    return data
