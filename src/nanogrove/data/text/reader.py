"""Windows of one source: reads its tokens from disk in any order, also while more are written."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nanogrove.data.rng import permuted, random
from nanogrove.data.splits import SPLITS
from nanogrove.data.text.assign import DOCUMENTS_TO_SPLIT_BY
from nanogrove.data.text.shards import HELD_OUT_TOKENS, empty_index, read_index
from nanogrove.data.text.verified import VerifiedTokens
from nanogrove.errors import DataError
from nanogrove.waits import waiting

TOKENS_PER_BLOCK = 1 << 21  # windows of a block are shuffled among each other


class ShardReader:
    """The tokens of one source, while more may be written.

    `check` returns whether the process that writes them has ended, and raises where it ended with an error.
    """

    def __init__(self, folder: Path, vocab_size: int, check: Callable[[], bool]) -> None:
        self.folder, self.check = folder, check
        self.tokens = VerifiedTokens(folder, vocab_size)
        self.index = read_index(folder) or empty_index(streamed=True)

    def refresh(self) -> None:
        """Reads what has been committed by now."""
        if not self.index["complete"]:
            self.index = read_index(self.folder) or self.index

    def count(self, split: str, at_least: int | None = None) -> int:
        """Waits for `at_least` tokens of a split, or for all, and returns how many have been written by now.

        Raises DataError when the writer has ended without them.
        """
        with waiting(f"reading text for {split}", at_least or HELD_OUT_TOKENS) as wait:
            while not self._enough(split, at_least):
                self.refresh()
                if self._enough(split, at_least):
                    break
                if self.check():
                    self.refresh()  # reads the last commit
                    if not self._enough(split, at_least):
                        raise DataError(f"{self.folder}: prepared data is gone; the next start makes it anew")
                wait.done = self._tokens(split)
                time.sleep(0.02)
        return self._tokens(split)

    def _tokens(self, split: str) -> int:
        return self.index["splits"][split]["tokens"]

    def _enough(self, split: str, at_least: int | None) -> bool:
        split_index = self.index["splits"][split]
        enough = at_least is not None and split_index["tokens"] >= at_least
        return self.index["complete"] or split_index["full"] or enough

    def read(self, split: str, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` tokens from each of N starts on, `[N, length]` int64. Raises DataError for damage."""
        return self.tokens.read(self.index, split, starts, length)

    def by_document(self, split: str) -> bool:
        """Whether the source was split by document under the setting `data.split`; see `characters_to_split`."""
        documents = sum(self.index["splits"][name]["documents"] for name in SPLITS)
        many = self.index["streamed"] or documents >= DOCUMENTS_TO_SPLIT_BY
        return split == "document" or (split == "auto" and many)

    def documents(self, split: str, starts: np.ndarray, end: int) -> np.ndarray:
        """How many documents of a split begin at or before each of the rising positions `starts [N]`.

        Each document begins with the token `end`.
        """
        numbers, before, position = [], 0, 0
        ends = range(TOKENS_PER_BLOCK, int(starts.max(initial=0)) + 1, TOKENS_PER_BLOCK)
        for chunk in np.split(starts, np.searchsorted(starts, ends)):
            stop = int(chunk.max(initial=position - 1)) + 1
            marks = np.cumsum(self.read(split, np.array([position]), stop - position)[0] == end)
            numbers.append(before + marks[chunk - position])
            before, position = before + int(marks[-1]) if len(marks) else before, stop
        return np.concatenate(numbers)

    def epoch(self, size: int) -> int:
        """Training windows of `size` tokens in one pass. Waits for all tokens."""
        full, rest = divmod(self.count("train"), TOKENS_PER_BLOCK)
        return full * windows_of(TOKENS_PER_BLOCK, size) + windows_of(rest, size)

    def has_window(self, window: int, size: int) -> bool:
        """Whether one pass has more than `window` windows. Waits until that is known."""
        blocks = window // windows_of(TOKENS_PER_BLOCK, size) + 1
        return self.count("train", blocks * TOKENS_PER_BLOCK) >= blocks * TOKENS_PER_BLOCK or window < self.epoch(size)

    def train_windows(self, number: np.ndarray, size: int, seed: int) -> np.ndarray:
        """The training windows of numbers `[N]`, as `[N, size + 1]` int64.

        A pass goes through the blocks in order; each visit to a block shows each of its windows once, in an order and
        with an offset that are functions of (seed, visit).
        """
        full = windows_of(TOKENS_PER_BLOCK, size)
        if not self.has_window(int(number.max()), size):
            total, blocks = self.epoch(size), -(-self.count("train") // TOKENS_PER_BLOCK)
            if not windows_of(self.count("train") - (blocks - 1) * TOKENS_PER_BLOCK, size):
                blocks -= 1
            passes, number = np.divmod(number, total)
        else:
            passes, blocks = np.zeros_like(number), 0
        block = number // full
        visit = passes * blocks + block
        within = number - block * full
        starts = np.empty(len(number), dtype=np.int64)
        for each in np.unique(visit).tolist():
            rows = visit == each
            begin = int(block[rows][0]) * TOKENS_PER_BLOCK
            tokens = min(self.count("train", begin + TOKENS_PER_BLOCK) - begin, TOKENS_PER_BLOCK)
            count = windows_of(tokens, size)
            slack = tokens - 1 - count * size
            offset = int(random(seed, "offset", each).integers(min(slack, size - 1) + 1))
            order = random(seed, "order", each)
            starts[rows] = begin + permuted(within[rows], count, order) * size + offset
        return self.read("train", starts, size + 1)


def windows_of(tokens: int, size: int) -> int:
    """Windows of `size` inputs and their targets in a block: one fewer than fit, to leave room for their offset."""
    fit = (tokens - 1) // size
    return max(fit - 1, min(fit, 1), 0)
