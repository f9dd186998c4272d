"""Reads tokens from disk and trusts none of them: what is given out agrees with the digests of the index.

A digest covers `TOKENS_PER_DIGEST` tokens, and is compared before the first of them is used, and again once their file
has changed. So damage is seen whenever it happens, no model learns from it, and to open a cache takes no time. A large
cache is read through in the background besides, so that damage far ahead is known soon.

Damage is a DataError that names the file. It marks the folder, so that the next start makes the tokens anew.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nanogrove.atomic import write_file
from nanogrove.data.splits import SPLITS
from nanogrove.data.text.shards import DAMAGED, TOKENS_PER_DIGEST, Index, digest_of, shard_files
from nanogrove.errors import DataError

AT_ONCE_BYTES = 1 << 24  # of tokens, that are compared when they are opened: 20 ms


class Damage(Exception):  # noqa: N818  a finding, which becomes a DataError
    """A file is not what the index says, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


class VerifiedTokens:
    """The tokens of a folder, which an index that may grow describes."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.folder, self.vocab_size = folder, vocab_size
        self.damage: DataError | None = None  # what the background has found
        self._verified: dict[tuple[str, int], tuple[object, ...]] = {}  # by split and digest: how far, and in what

    def read(self, index: Index, split: str, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` tokens from each of N starts on, `[N, length]` int64. Raises DataError for damage.

        Files are opened for this call only, and read, not mapped: a mapped file that is cut off ends the process.
        """
        if self.damage is not None:
            raise self.damage
        try:
            return self._read(index, split, starts, length)
        except Damage as damage:
            raise self.marked(damage) from None

    def _read(self, index: Index, split: str, starts: np.ndarray, length: int) -> np.ndarray:
        first, last = starts // TOKENS_PER_DIGEST, (starts + (length - 1)) // TOKENS_PER_DIGEST
        for number in sorted({n for a, b in zip(first.tolist(), last.tolist(), strict=True) for n in range(a, b + 1)}):
            self.verify(index, split, number)
        tokens = np.empty((len(starts), length), dtype=index["dtype"])
        with _Shards(self.folder, index, split) as shards:
            for row, start in enumerate(starts.tolist()):
                shards.read(start, tokens[row])
        if tokens.size and int(tokens.max()) >= self.vocab_size:
            raise Damage(shards.path_at(int(starts[0])), "it holds tokens that are not in the vocabulary")
        return tokens.astype(np.int64)

    def verify(self, index: Index, split: str, number: int) -> None:
        """Compares one digest of a split with its tokens, unless that is done. Raises Damage where they differ."""
        begin = number * TOKENS_PER_DIGEST
        end = min(begin + TOKENS_PER_DIGEST, index["splits"][split]["tokens"])
        with _Shards(self.folder, index, split) as shards:
            # The files of a source that is still being written change all the time.
            seen = (end, *(shards.stamps(begin, end) if index["complete"] else ()))
            if self._verified.get((split, number)) == seen:
                return
            tokens = np.empty(max(end - begin, 0), dtype=index["dtype"])
            shards.read(begin, tokens)
            digests = index["splits"][split]["digests"]
            if number >= len(digests) or digest_of(tokens.tobytes()).hexdigest() != digests[number]:
                raise Damage(shards.path_at(begin), "its digest differs")
        self._verified[split, number] = seen

    def verify_all(self, index: Index, splits: Sequence[str] = SPLITS) -> None:
        """Compares all digests of some splits. Raises Damage where one differs."""
        for split in splits:
            for number in range(len(index["splits"][split]["digests"])):
                self.verify(index, split, number)

    def marked(self, damage: Damage) -> DataError:
        """The error for damage, in whose folder it leaves a mark."""
        cure = "the next start makes it anew"
        try:
            write_file(self.folder / DAMAGED, b"")
        except FileNotFoundError:
            pass  # the folder is gone as a whole
        except OSError as error:
            cure = f"it cannot be made anew there ({error.strerror}), so set NANOGROVE_CACHE to another folder"
        return DataError(f"{damage.path}: prepared data is damaged ({damage.reason}); {cure}")


def large(index: Index) -> bool:
    """Whether it takes a noticeable time to compare all digests."""
    tokens = sum(index["splits"][split]["tokens"] for split in SPLITS)
    return tokens * np.dtype(index["dtype"]).itemsize > AT_ONCE_BYTES


def verify_in_background(parts: Sequence[tuple[VerifiedTokens, Index]]) -> None:
    """Compares the digests of several folders while this process goes on; `read` raises what is found."""

    def verify() -> None:
        for tokens, index in parts:
            try:
                tokens.verify_all(index)
            except Damage as damage:
                tokens.damage = tokens.marked(damage)

    if parts:
        threading.Thread(target=verify, name="verify tokens", daemon=True).start()


class _Shards:
    """The files of a split, opened as they are needed."""

    def __init__(self, folder: Path, index: Index, split: str) -> None:
        self.size = np.dtype(index["dtype"]).itemsize
        self.paths = [path for path, _ in shard_files(folder, index, split)]
        self.begins = np.concatenate(([0], np.cumsum(index["splits"][split]["shards"], dtype=np.int64)))
        self.files: dict[int, BinaryIO] = {}
        self.stack = ExitStack()

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def path_at(self, position: int) -> Path:
        """The file that holds a token."""
        return self.paths[self._number(position)]

    def stamps(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Sizes and times of the files that hold the tokens of a range. Raises Damage for one that is gone."""
        for number in range(self._number(begin), self._number(max(end - 1, begin)) + 1):
            try:
                status = self.paths[number].stat()
            except OSError as error:
                raise Damage(self.paths[number], str(error.strerror)) from None
            yield status.st_size, status.st_mtime_ns, status.st_ctime_ns  # the last one no program can set back

    def read(self, start: int, out: np.ndarray) -> None:
        """Fills `out` with the tokens from `start` on. Raises Damage where files are gone or too short."""
        view, at = out.data.cast("B") if out.size else memoryview(b""), start
        while view:
            number = self._number(at)
            path, rest = self.paths[number], int(self.begins[number + 1]) - at
            try:
                if number not in self.files:
                    self.files[number] = self.stack.enter_context(path.open("rb", buffering=0))
                self.files[number].seek((at - int(self.begins[number])) * self.size)
                count = self.files[number].readinto(view[: rest * self.size])  # type: ignore[attr-defined]
            except OSError as error:
                raise Damage(path, str(error.strerror)) from None
            if not count:
                raise Damage(path, "it is cut off")
            view, at = view[count:], at + count // self.size

    def _number(self, position: int) -> int:
        return min(int(np.searchsorted(self.begins, position, side="right")) - 1, len(self.paths) - 1)
