"""Randomness as a function of (seed, purpose, index), never of history: equal on every machine and in every process."""

import numpy as np


def random(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A generator that depends on (seed, purpose, index) alone, equal on every machine."""
    return np.random.default_rng([seed, *purpose.encode(), *index])


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """A seed for another kind of generator, torch's say, that depends on (seed, purpose, index) alone."""
    return int(random(seed, purpose, *index).integers(1 << 62))


def permuted(index: np.ndarray, size: int, key: np.random.Generator) -> np.ndarray:
    """Images of `index` under a random permutation of range(size), computed without storing it.

    A four-round Feistel network on the smallest square of a power of two that holds `size`, walked until the image
    lies in range (Black & Rogaway 2002). `key` chooses the permutation.
    """
    bits = max(1, -(-(size - 1).bit_length() // 2))
    mask = np.uint64((1 << bits) - 1)
    keys = key.integers(1 << 63, size=4, dtype=np.uint64)
    image = index.astype(np.uint64)
    outside = np.ones(len(image), dtype=bool)
    while outside.any():
        left, right = image[outside] >> np.uint64(bits), image[outside] & mask
        for round_key in keys:
            mixed = (right + round_key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(33)) & mask)
        image[outside] = (left << np.uint64(bits)) | right
        outside = image >= size
    return image.astype(np.int64)


def shuffled_by_epoch(numbers: np.ndarray, size: int, seed: int, purpose: str) -> np.ndarray:
    """Draw number n of an endless stream in which each epoch is a random order of range(size), for each of `numbers`.

    Each order is a function of (seed, purpose, epoch).
    """
    epochs, within = np.divmod(numbers, size)
    return np.concatenate(
        [permuted(within[epochs == epoch], size, random(seed, purpose, int(epoch))) for epoch in np.unique(epochs)]
    )
