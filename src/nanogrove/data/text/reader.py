"""Windows of one source: its tokens read from disk in any order, also while more are written."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nanogrove.data.rng import permuted, random
from nanogrove.data.splits import SPLITS
from nanogrove.data.text.assign import MANY
from nanogrove.data.text.shards import files, read_index
from nanogrove.errors import DataError

BLOCK = 1 << 21  # tokens whose windows are shuffled among each other


class Shards:
    """The tokens of one source, of which more may come.

    `check` says whether whoever writes them has ended, and raises when that was by an error.
    """

    def __init__(self, folder: Path, check: Callable[[], bool]) -> None:
        self.folder, self.check = folder, check
        self.index: dict[str, Any] = {"complete": False, "splits": {split: {"tokens": 0} for split in SPLITS}}
        self.refresh()

    def refresh(self) -> None:
        """Looks at what has been sealed by now."""
        if not self.index["complete"]:
            self.index = read_index(self.folder) or self.index

    def count(self, split: str, wanted: int | None = None) -> int:
        """Tokens of a split: all, or as many as there are now when that is at least `wanted`. Waits for them.

        Raises DataError when they will not come.
        """
        while not self._enough(split, wanted):
            self.refresh()
            if self._enough(split, wanted):
                break
            if self.check():
                self.refresh()  # what was sealed last
                if not self._enough(split, wanted):
                    raise DataError(
                        f"{self.folder}: prepared data is damaged or gone; start again to have it made anew"
                    )
            time.sleep(0.02)
        return int(self.index["splits"][split]["tokens"])

    def _enough(self, split: str, wanted: int | None) -> bool:
        there = self.index["splits"][split]
        return bool(self.index["complete"] or there.get("full") or (wanted is not None and there["tokens"] >= wanted))

    def read(self, split: str, starts: np.ndarray, length: int) -> np.ndarray:
        """`[N, length]` int64: the tokens from each of N places on. Files are mapped for this call only, since the
        pages a long-lived map has touched would count as this process's memory."""
        known = files(self.folder, self.index, split)
        begins = np.concatenate(([0], np.cumsum([count for _, count in known], dtype=np.int64)))
        maps: dict[int, np.memmap[Any, Any]] = {}
        out = np.empty((len(starts), length), dtype=np.int64)
        for row, start in enumerate(starts.tolist()):
            filled = 0
            while filled < length:
                at = start + filled
                shard = int(np.searchsorted(begins, at, side="right")) - 1
                if shard not in maps:
                    maps[shard] = np.memmap(known[shard][0], dtype=self.index["dtype"], mode="r")
                offset = at - int(begins[shard])
                part = maps[shard][offset : min(offset + length - filled, known[shard][1])]
                out[row, filled : filled + len(part)] = part
                filled += len(part)
        return out

    def by_document(self, split: str) -> bool:
        """Whether the setting `data.split` let a hash of each document decide, as `characters_to_split` has it."""
        documents = sum(self.index["splits"][name]["documents"] for name in SPLITS)
        return split == "document" or (split == "auto" and (self.index["streamed"] or documents >= MANY))

    def documents(self, split: str, starts: np.ndarray, end: int) -> np.ndarray:
        """How many documents of a split begin at or before each of the rising places `starts [N]`; each begins with
        `end`."""
        numbers, before, place = [], 0, 0
        for chunk in np.split(starts, np.searchsorted(starts, range(BLOCK, int(starts.max(initial=0)) + 1, BLOCK))):
            stop = int(chunk.max(initial=place - 1)) + 1
            marks = np.cumsum(self.read(split, np.array([place]), stop - place)[0] == end)
            numbers.append(before + marks[chunk - place])
            before, place = before + int(marks[-1]) if len(marks) else before, stop
        return np.concatenate(numbers)

    def epoch(self, size: int) -> int:
        """Training windows of `size` tokens in one pass. Waits for all tokens."""
        full, rest = divmod(self.count("train"), BLOCK)
        return full * windows_of(BLOCK, size) + windows_of(rest, size)

    def reaches(self, window: int, size: int) -> bool:
        """Whether one pass has more than `window` windows. Waits until that is known."""
        blocks = window // windows_of(BLOCK, size) + 1
        return self.count("train", blocks * BLOCK) >= blocks * BLOCK or window < self.epoch(size)

    def train(self, place: np.ndarray, size: int, seed: int) -> np.ndarray:
        """Training windows by number, `[N]` to `[N, size + 1]` int64.

        A pass goes through the blocks in order; each visit to a block shows each of its windows once, in an order and
        with an offset that are functions of (seed, visit).
        """
        full = windows_of(BLOCK, size)
        if not self.reaches(int(place.max()), size):
            total, blocks = self.epoch(size), -(-self.count("train") // BLOCK)
            if not windows_of(self.count("train") - (blocks - 1) * BLOCK, size):
                blocks -= 1
            passes, place = np.divmod(place, total)
        else:
            passes, blocks = np.zeros_like(place), 0
        block = place // full
        visit = passes * blocks + block
        within = place - block * full
        starts = np.empty(len(place), dtype=np.int64)
        for number in np.unique(visit).tolist():
            mine = visit == number
            begin = int(block[mine][0]) * BLOCK
            tokens = min(self.count("train", begin + BLOCK) - begin, BLOCK)
            count = windows_of(tokens, size)
            slack = tokens - 1 - count * size
            offset = int(random(seed, "offset", number).integers(min(slack, size - 1) + 1))
            order = random(seed, "order", number)
            starts[mine] = begin + permuted(within[mine], count, order) * size + offset
        return self.read("train", starts, size + 1)


def windows_of(tokens: int, size: int) -> int:
    """Windows of `size` inputs and their targets in a block: one less than fit, for the offset that moves them all."""
    whole = (tokens - 1) // size
    return max(whole - 1, min(whole, 1), 0)
