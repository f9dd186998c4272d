"""Mutations of JSON and of bytes, by which files of strangers are tried."""

import copy
import json
from typing import Any

import numpy as np
import pytest

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 70_000, 1 << 31, (1 << 32) - 1, 1 << 64, 1e308, -0.5),
    *("", "a", "é", "\ud800", "x" * 5000),
    *([], {}, [[]], {"type": "BPE"}, {"Regex": "(a+)+$"}, {"Regex": "((a{999}){999}){999}"}, {"String": ""}),
)


def nodes(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values within a JSON value, few of those in a large table."""
    children: list[Any] = list(value.items()) if isinstance(value, dict) else []
    children = list(enumerate(value)) if isinstance(value, list) else children
    return [path, *(inner for key, child in children[:40] for inner in nodes(child, (*path, key)))]


def mutated(value: Any, generator: np.random.Generator) -> bytes:
    """The text of a JSON value with a few values replaced, removed or doubled, or with bytes that are damaged."""
    value = copy.deepcopy(value)
    for _ in range(generator.integers(1, 4)):
        paths = [path for path in nodes(value) if path]
        if not paths:
            break
        *parents, last = paths[generator.integers(len(paths))]
        holder = value
        for key in parents:
            holder = holder[key]
        action = generator.integers(4)
        if action == 0:
            del holder[last]
        elif action == 1 and isinstance(holder, list):
            holder.extend(holder[: int(generator.integers(50))])
        elif action == 2 and isinstance(holder, dict):
            holder[str(VALUES[generator.integers(len(VALUES))])[:50]] = holder[last]
        else:
            holder[last] = VALUES[generator.integers(len(VALUES))]
    data = json.dumps(value).encode()
    if generator.random() < 0.3:
        damaged = bytearray(data)
        for at in generator.integers(len(data), size=generator.integers(1, 8)):
            damaged[at] = generator.integers(256)
        data = bytes(damaged[: None if generator.random() < 0.7 else generator.integers(len(data))])
    return data


@pytest.fixture(scope="session")
def mutate() -> Any:
    """`mutated`."""
    return mutated
