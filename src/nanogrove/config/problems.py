"""What is wrong with a preset, in one line, with the key named and, where one is near, the key that was meant."""

from collections.abc import Collection, Iterable

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nanogrove.errors import nearest


def explain(error: ValidationError, keys: Iterable[str], unions: dict[str, Collection[str]]) -> str:
    """The first problem of a preset, whose keys may be `keys`.

    `unions` has the names of which a section chooses one: pydantic puts the chosen name into the path, and a key has no
    such part.
    """
    problem = error.errors()[0]
    path = problem["loc"]
    if len(path) > 1 and path[1] in unions.get(str(path[0]), ()):
        path = (path[0], *path[2:])
    key = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{nearest_key(key, keys)}"
    return f"{key}: {reason(problem)}" if key else reason(problem)


def reason(problem: ErrorDetails) -> str:
    """Why a value is refused, with the value where it is short."""
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = problem["input"]
    shown = "" if isinstance(given, (dict, list, BaseModel)) or given is None else f", and {given!r} was given"
    return message + shown


def nearest_key(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the nearest of the known words, or nothing when none is near."""
    known = list(known)
    in_other_sections = [key for key in known if key.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    near = nearest(word, in_other_sections, cutoff=0) or nearest(word, known, cutoff=0.7)
    return f"; {near}" if near else ""
