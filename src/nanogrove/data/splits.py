"""The three splits of every corpus."""

import hashlib
from collections.abc import Sequence
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


def split_by_hash(keys: Sequence[str], validation: float, test: float) -> list[Split]:
    """The split of each key: the first shares of the different keys, in the order of their hashes, are held out."""
    digests = {key: hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys}
    order = {key: rank for rank, key in enumerate(sorted(digests, key=digests.__getitem__))}
    tested = -(-test * len(order) // 1)  # rounded up, so that a share above 0 is one key at least
    held_out = tested + -(-validation * len(order) // 1)
    return ["test" if order[k] < tested else "validation" if order[k] < held_out else "train" for k in keys]
