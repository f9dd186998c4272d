"""Tokenises each source once and keeps its tokens in a cache folder, named by a fingerprint of all they depend on.

A small source is read at once. A source that streams is read, decoded and tokenised by a separate process, which
commits shards while training goes on, and which ends when this one does. Where preparation was interrupted, the source
is read again from its start, but tokens that are committed are not computed again.

`python -m nanogrove.data.text.prepare` is that process: it reads its work as a line of JSON and prints its errors.
"""

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nanogrove.data.sources.contract import DocumentSource
from nanogrove.data.sources.kinds import KINDS
from nanogrove.data.sources.pieces import PIECE_CHARACTERS, Piece, Skipped
from nanogrove.data.splits import SPLITS
from nanogrove.data.text.assign import assign_to_splits, characters_to_split, streams
from nanogrove.data.text.cache import SOURCE_OPTIONS, cache_folder, change_times, key_of, remove_on_error, write_lock
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.shards import TOKENS_PER_COMMIT, ShardWriter, read_index, trim
from nanogrove.data.text.verified import Damage, VerifiedTokens, large
from nanogrove.data.text.vocabulary import tokenizer_of
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import DataError
from nanogrove.waits import waiting

BATCH_CHARACTERS = 8 * PIECE_CHARACTERS  # tokenised at once
PIECE_OVERHEAD_CHARACTERS = 200  # counted per piece besides its text, since objects take memory too


class Prepared(NamedTuple):
    """A tokenizer, the folder of each source, and the process that still writes some of them."""

    tokenizer: Tokenizer
    folders: list[Path]
    process: "PreparationProcess | None"


def prepare(config: DataConfig) -> Prepared:
    """Tokenises each source into its folder unless that is done: small ones now, streaming ones in a process.

    Raises DataError for sources that cannot be read or hold too little, and for a disk that is full.
    """
    identities = [source.identity() for source in config.all_sources]
    changes = [change_times(identity) for identity in identities]
    tokenizer = tokenizer_of(config, identities)
    folders, streaming = [], []
    for number, (source, identity) in enumerate(zip(config.all_sources, identities, strict=True)):
        key = key_of([identity, config.model_dump(include=set(SOURCE_OPTIONS)), tokenizer.to_json()])
        folder = cache_folder() / key
        folders.append(folder)
        if change_times(identity) != changes[number]:  # while the vocabulary was learned
            raise _changed(source)
        if is_complete(folder, changes[number], tokenizer):
            continue
        if streams(source):
            if folder not in folders[:-1]:
                streaming.append((number, folder))
            continue
        with write_lock(folder), remove_on_error(folder):
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
    identity = source.identity()
    changes = change_times(identity)
    if is_complete(folder, changes, tokenizer):  # another process was first
        return
    index = read_index(folder) if streams(source) else None  # else the digest must be of all tokens
    going_on = index is not None and not index["complete"] and index["change_times"] == changes
    writer = ShardWriter(folder, index if going_on else None, tokenizer.vocab_size, streams(source), changes)
    skipped = Skipped(config.bad_rows == "refuse")
    blank = not writer.index["pieces"]
    pieces, size = assign_to_splits(config, source, characters_to_split(config, source), skipped), source.size()
    with waiting(f"tokenising {source.title()}", size) as wait:
        for batch, encoded in _tokenized_batches(islice(pieces, writer.index["pieces"], None), tokenizer):
            for (split, piece), ids in zip(batch, encoded, strict=True):
                blank = blank and piece.text.isspace()
                writer.add(split, piece, np.concatenate(([tokenizer.end], ids)) if piece.first else ids)
            wait.done = sum(split["bytes"] for split in writer.index["splits"].values())
            if writer.uncommitted >= TOKENS_PER_COMMIT:
                writer.commit(skipped)
                yield
            else:
                writer.flush()
    if blank:
        reasons = skipped.most_common(examples=True)
        if writer.index["pieces"]:
            reasons = "blanks alone"
        nothing = f"nothing to use ({reasons})" if reasons else "empty; a corpus needs text"
        raise DataError(f"{source.title()}: {nothing}")
    if change_times(identity) != changes:  # a program may give a file that it changed its old time back
        raise _changed(source)
    writer.commit(skipped, complete=True)


def _changed(source: DocumentSource) -> DataError:
    return DataError(f"{source.title()}: was changed while it was read; start again once nothing writes to it")


def is_complete(folder: Path, change_times: list[int], tokenizer: Tokenizer) -> bool:
    """Whether a folder holds all tokens of a source, undamaged as far as a start can tell.

    Of large data the held-out splits are looked at here, and the rest as it is used.
    """
    index = read_index(folder)
    if index is None or not index["complete"] or not (index["streamed"] or index["change_times"] == change_times):
        return False
    try:
        VerifiedTokens(folder, tokenizer.vocab_size).verify_all(index, SPLITS[1:] if large(index) else SPLITS)
    except Damage:
        return False
    return True


def _tokenized_batches(
    pieces: Iterator[tuple[str, Piece]], tokenizer: Tokenizer
) -> Iterator[tuple[list[tuple[str, Piece]], list[np.ndarray]]]:
    """Batches of pieces with their tokens; while one batch is tokenised, the next is read."""
    pending: tuple[list[tuple[str, Piece]], Future[list[np.ndarray]]] | None = None
    for batch in _batches(pieces):
        future = _in_background(tokenizer, [piece.text for _, piece in batch])
        if pending is not None:
            yield pending[0], pending[1].result()
        pending = batch, future
    if pending is not None:
        yield pending[0], pending[1].result()


def _in_background(tokenizer: Tokenizer, texts: list[str]) -> Future[list[np.ndarray]]:
    """The tokens of texts, which a thread computes that Ctrl-C need not wait for: the library cannot be interrupted."""
    future: Future[list[np.ndarray]] = Future()

    def encode() -> None:
        try:
            future.set_result(tokenizer.encode_batch(texts))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=encode, name="tokenise", daemon=True).start()
    return future


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
        with write_lock(folder, wait=False) as granted:
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
