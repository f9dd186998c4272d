"""Tokenises each source once and keeps its tokens in a cache folder, named by a fingerprint of all they depend on.

A small source is read at once. A source that streams is read, decoded and tokenised by a separate process, which
commits shards while training goes on, and which ends when this one does. Where preparation was interrupted, the source
is read again from its start, but tokens that are committed are not computed again.

`python -m nanogrove.data.text.prepare` is that process: it reads its work as a line of JSON and prints its errors.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from nanogrove.atomic import make_folder, not_plain, read_file, refusal, write_file
from nanogrove.data.sources.contract import DocumentSource
from nanogrove.data.sources.kinds import KINDS
from nanogrove.data.sources.pieces import PIECE_CHARACTERS, Piece, Skipped
from nanogrove.data.text.assign import assign_to_splits, characters_to_split, streams
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.shards import TOKENS_PER_COMMIT, ShardWriter, read_index, trim
from nanogrove.data.tokenizer import Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer, load_tokenizer
from nanogrove.errors import DataError

CACHE_FORMAT = 2
TOKENIZER_BYTES = 1 << 28  # of a tokenizer.json, at most
BPE_CHARACTERS = 1 << 24  # that a BPE vocabulary is learned from, at most, in equal parts from all sources
BATCH_CHARACTERS = 8 * PIECE_CHARACTERS  # tokenised at once
PIECE_OVERHEAD_CHARACTERS = 200  # counted per piece besides its text, since objects take memory too
# The settings that the shards of a source depend on, besides the source and the tokenizer.
SOURCE_OPTIONS = ("split", "validation", "test", "min_text_length", "drop_duplicates", "bad_rows")


class Prepared(NamedTuple):
    """A tokenizer, the folder of each source, and the process that still writes some of them."""

    tokenizer: Tokenizer
    folders: list[Path]
    process: "PreparationProcess | None"


def cache_folder() -> Path:
    """Where prepared data lies: `NANOGROVE_CACHE`, or `nanogrove` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NANOGROVE_CACHE") or Path(base) / "nanogrove")


def prepare(config: DataConfig) -> Prepared:
    """Tokenises each source into its folder unless that is done: small ones now, streaming ones in a process.

    Raises DataError for sources that cannot be read or hold too little, and for a disk that is full.
    """
    identities = [source.identity() for source in config.all_sources]
    tokenizer = _tokenizer(config, identities)
    folders, streaming = [], []
    for number, (source, identity) in enumerate(zip(config.all_sources, identities, strict=True)):
        key = _key([identity, config.model_dump(include=set(SOURCE_OPTIONS)), tokenizer.to_json()])
        folder = cache_folder() / key
        folders.append(folder)
        index = read_index(folder)
        if index is not None and index["complete"]:
            continue
        if streams(source):
            if folder not in folders[:-1]:
                streaming.append((number, folder))
            continue
        with _write_lock(folder), remove_on_error(folder):
            for _ in write(config, source, folder, tokenizer):
                pass
    return Prepared(tokenizer, folders, PreparationProcess(config, streaming, tokenizer) if streaming else None)


def pin_versions(config: DataConfig) -> DataConfig:
    """The same settings with the version of each source fixed, such as a commit of the hub, for resumed runs."""

    def pinned(sources: list[DocumentSource]) -> list[DocumentSource]:
        return [KINDS[source.type].pin(source) for source in sources]

    pins = {"sources": pinned(config.sources), "custom_sources": pinned(config.custom_sources)}
    return config.model_copy(update=pins)


def write(config: DataConfig, source: DocumentSource, folder: Path, tokenizer: Tokenizer) -> Iterator[None]:
    """Tokenises a source into a folder that no other process writes to; yields after each commit.

    Raises DataError, with the reasons, for a source without usable documents.
    """
    index = read_index(folder)
    if index is not None and index["complete"]:  # another process was first
        return
    writer, skipped = ShardWriter(folder, tokenizer.vocab_size, streams(source)), Skipped(config.bad_rows == "refuse")
    pieces = assign_to_splits(config, source, characters_to_split(config, source), skipped)
    for batch, encoded in _tokenized_batches(islice(pieces, writer.index["pieces"], None), tokenizer):
        for (split, piece), ids in zip(batch, encoded, strict=True):
            writer.add(split, piece, np.concatenate(([tokenizer.end], ids)) if piece.first else ids)
        if writer.uncommitted >= TOKENS_PER_COMMIT:
            writer.commit(skipped)
            yield
        else:
            writer.flush()
    if not writer.index["pieces"]:
        reasons = skipped.most_common(examples=True)
        nothing = f"nothing to use ({reasons})" if reasons else "empty; a corpus needs text"
        raise DataError(f"{source.title()}: {nothing}")
    writer.commit(skipped, complete=True)


def _tokenized_batches(
    pieces: Iterator[tuple[str, Piece]], tokenizer: Tokenizer
) -> Iterator[tuple[list[tuple[str, Piece]], list[np.ndarray]]]:
    """Batches of pieces with their tokens; while one batch is tokenised, the next is read."""
    with ThreadPoolExecutor(1) as pool:
        pending: tuple[list[tuple[str, Piece]], Future[list[np.ndarray]]] | None = None
        for batch in _batches(pieces):
            future = pool.submit(tokenizer.encode_batch, [piece.text for _, piece in batch])
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = batch, future
        if pending is not None:
            yield pending[0], pending[1].result()


def _batches(pieces: Iterator[tuple[str, Piece]]) -> Iterator[list[tuple[str, Piece]]]:
    """Pieces in batches of about `BATCH_CHARACTERS`."""
    batch: list[tuple[str, Piece]] = []
    characters = 0
    for split, piece in pieces:
        batch.append((split, piece))
        characters += len(piece.text) + PIECE_OVERHEAD_CHARACTERS
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _key(parts: object) -> str:
    return hashlib.sha256(json.dumps([CACHE_FORMAT, parts], sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def _write_lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Locks a folder for writing, after a wait where `wait` is set; yields whether the lock was acquired.

    Raises DataError where writing fails. The lock is a file beside the folder, since its owner may delete the folder.
    """
    try:
        make_folder(folder.parent)
        with ExitStack() as lock:
            try:
                lock.enter_context(FileLock(folder.with_suffix(".lock")).acquire(timeout=-1 if wait else 0))
            except Timeout:
                yield False
                return
            if reason := not_plain(folder, folder=True):
                raise DataError(f"{folder}: {reason}, and prepared data is not written through it; remove it")
            make_folder(folder)
            yield True
    except OSError as error:
        raise DataError(
            f"{folder}: cannot write prepared data {refusal(error)} or set NANOGROVE_CACHE to another folder"
        ) from None


@contextmanager
def remove_on_error(folder: Path) -> Iterator[None]:
    """Deletes a folder where an error ends the context."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _tokenizer(config: DataConfig, identities: list[dict[str, object]]) -> Tokenizer:
    """The tokenizer a configuration names; one that is learned is kept in the cache."""
    if config.tokenizer == "byte":
        return byte_tokenizer()
    if config.tokenizer not in ("bpe", "char"):
        return load_tokenizer(config.tokenizer)
    options = config.model_dump(include={*SOURCE_OPTIONS, "tokenizer", "vocab_size"})
    folder = cache_folder() / _key([identities, options])
    with _write_lock(folder), remove_on_error(folder):
        path = folder / "tokenizer.json"
        try:
            return Tokenizer.from_json(read_file(path, TOKENIZER_BYTES).decode(), where=str(path))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: was damaged ({error}) and is removed; start again to have it made anew") from None
        if config.tokenizer == "char":
            tokenizer = character_tokenizer(text for n in range(len(identities)) for _, text in _texts(config, n))
        else:
            tokenizer = bpe_tokenizer(_bpe_texts(config), config.vocab_size)
        write_file(path, tokenizer.to_json().encode())
    return tokenizer


def _texts(config: DataConfig, number: int) -> Iterator[tuple[str, str]]:
    """The texts of a source with their splits."""
    source = config.all_sources[number]
    for split, piece in assign_to_splits(config, source, characters_to_split(config, source), Skipped()):
        yield split, piece.text


def _bpe_texts(config: DataConfig) -> Iterator[str]:
    """The texts that a BPE vocabulary is learned from: the first training texts of each source."""
    count = len(config.all_sources)
    for number in range(count):
        learned = 0
        for split, text in _texts(config, number):
            if split == "train":
                learned += len(text)
                yield text
                if learned >= BPE_CHARACTERS // count:
                    break


class PreparationProcess:
    """The process that writes the streaming sources. It ends with this one, since its standard input is then closed."""

    def __init__(self, config: DataConfig, streaming: list[tuple[int, Path]], tokenizer: Tokenizer) -> None:
        work = {
            "config": config.model_dump(mode="json"),
            "sources": [[number, str(folder)] for number, folder in streaming],
            "tokenizer": tokenizer.to_json(),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nanogrove.data.text.prepare"],  # -P: imports nothing from the working folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "USE_TORCH": "0"},  # or `datasets` would import torch
            start_new_session=True,  # Ctrl-C ends the run after its step, and the run ends this process
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `check` raises the error of a process that has ended
            self.process.stdin.write(json.dumps(work) + "\n")
            self.process.stdin.flush()
        self.end = weakref.finalize(self, _end, self.process)

    def check(self) -> bool:
        """Whether the process has ended. Raises DataError where it ended with an error."""
        if self.process.poll():
            assert self.process.stdout is not None
            message = self.process.stdout.read().strip() if not self.process.stdout.closed else ""
            raise DataError(message or f"the process that reads the data ended with status {self.process.returncode}")
        return self.process.returncode == 0


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process, if it has not ended yet; committed tokens are kept."""
    process.terminate()
    with process:
        pass


def main() -> None:
    """Writes sources in turn, a commit each, until all are complete."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files are any bytes
    work = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = DataConfig.model_validate(work["config"])
    tokenizer = Tokenizer.from_json(work["tokenizer"])
    try:
        writers = [_write_in_turn(config, number, Path(folder), tokenizer) for number, folder in work["sources"]]
        while writers:
            turns = [(writer, next(writer, None)) for writer in writers]
            writers = [writer for writer, turn in turns if turn is not None]
            if writers and not any(turn for _, turn in turns):
                time.sleep(0.2)  # other processes are writing all that is left
    except DataError as error:
        print(error, flush=True)
        sys.exit(2)


def _write_in_turn(config: DataConfig, number: int, folder: Path, tokenizer: Tokenizer) -> Iterator[bool]:
    """Writes one source; yields true after each commit, and false while another process writes it."""
    while True:
        with _write_lock(folder, wait=False) as granted:
            if granted:
                try:
                    yield from (True for _ in write(config, config.all_sources[number], folder, tokenizer))
                except BaseException:
                    trim(folder, read_index(folder))  # frees the space of uncommitted tokens
                    raise
                return
        yield False


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
