"""Where two JSON values differ."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import TypeGuard


class Missing:
    """In place of a value that one of the two has not."""


MISSING = Missing()


def shown(value: object) -> str:
    """A value of `differences` for a message: its JSON, or that it is not set."""
    return "not set" if isinstance(value, Missing) else json.dumps(value)


def differences(theirs: object, ours: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Yields the dotted keys in which two JSON values differ, as in `data.sources.0.path`, each with both values.

    Lists are compared item by item where all items are objects, and others as wholes.
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys(chain(ours, theirs)):
            name = f"{path}.{key}" if path else str(key)
            yield from differences(theirs.get(key, MISSING), ours.get(key, MISSING), name)
    elif _has_objects(theirs) and _has_objects(ours):
        yield from differences(dict(enumerate(theirs)), dict(enumerate(ours)), path)
    elif theirs != ours:
        yield path, theirs, ours


def _has_objects(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
