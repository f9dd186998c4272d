"""The three splits of every corpus."""

from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
WITHOUT_TEST: tuple[Split, ...] = ("train", "validation")


def evenly(count: int, size: int, limit: int | None) -> np.ndarray:
    """The numbers of evenly spread sequences of `size` tokens, about `limit` tokens in all; of all `count` at most."""
    if limit is None or limit >= count * size:
        return np.arange(count)
    chosen = max(limit // size, 1)
    return np.arange(chosen) * count // chosen
