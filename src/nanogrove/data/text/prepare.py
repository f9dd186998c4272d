"""Sources made into tokens once and kept: in a cache folder for each, named by a fingerprint of all that made it.

A small source is read here and now. One that streams is read, decoded and tokenised by a process of its own, which
commits shards while training goes on, and which ends when this one does. A source whose preparation was cut off is read
again from its start, but what is committed is not tokenised again.

`python -m nanogrove.data.text.prepare` is that process: it reads its work as a line of JSON and prints what goes wrong.
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

from nanogrove.atomic import write_file
from nanogrove.data.sources.base import PIECE_CHARACTERS, Piece, Skipped
from nanogrove.data.sources.contract import DocumentSource
from nanogrove.data.sources.kinds import KINDS
from nanogrove.data.text.assign import assign_to_splits, characters_to_split, streams
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.shards import TOKENS_PER_COMMIT, ShardWriter, read_index, trim
from nanogrove.data.tokenizer import Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer, load_tokenizer
from nanogrove.errors import DataError

CACHE_FORMAT = 2
BPE_CHARACTERS = 1 << 24  # that a BPE vocabulary is learned from, at most, in equal parts from all sources
BATCH_CHARACTERS = 8 * PIECE_CHARACTERS  # characters tokenised at once
PIECE_OVERHEAD_CHARACTERS = 200  # that a piece counts beside its own, since objects take memory too
SOURCE_OPTIONS = ("split", "validation", "test", "min_text_length", "drop_duplicates", "bad_rows")  # shape its shards


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
    """The folders that hold the tokens of the sources, made now unless they are there, or while they are read.

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
    """The same settings with each source's version fixed, as a commit of the hub: a resumed run reads what it read."""

    def pinned(sources: list[DocumentSource]) -> list[DocumentSource]:
        return [KINDS[source.type].pin(source) for source in sources]

    pins = {"sources": pinned(config.sources), "custom_sources": pinned(config.custom_sources)}
    return config.model_copy(update=pins)


def write(config: DataConfig, source: DocumentSource, folder: Path, tokenizer: Tokenizer) -> Iterator[None]:
    """Tokenises a source into a folder that nobody else writes to; yields after each commit.

    Raises DataError for a source that holds nothing of use, saying what was wrong with it.
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
    """Batches of pieces with their tokens; the next batch is read while one is tokenised."""
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
    held = 0
    for split, piece in pieces:
        batch.append((split, piece))
        held += len(piece.text) + PIECE_OVERHEAD_CHARACTERS
        if held >= BATCH_CHARACTERS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _key(parts: object) -> str:
    return hashlib.sha256(json.dumps([CACHE_FORMAT, parts], sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def _write_lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the right to write to a folder, waited for if need be; yields whether it was granted.

    Raises DataError where writing fails. The lock lies beside the folder, which its owner may delete.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(FileLock(folder.with_suffix(".lock")).acquire(timeout=-1 if wait else 0))
            except Timeout:
                yield False
                return
            folder.mkdir(exist_ok=True)
            yield True
    except OSError as error:
        raise DataError(
            f"{folder}: cannot write prepared data ({error.strerror}); free some space or set NANOGROVE_CACHE"
        ) from None


@contextmanager
def remove_on_error(folder: Path) -> Iterator[None]:
    """Deletes a folder where an error leaves it."""
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
        if path.exists():
            return Tokenizer.from_json(path.read_text(encoding="utf-8"), where=str(path))
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
    """What a BPE vocabulary is learned from: training text only, the first of each source."""
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
    """The process that writes the sources which stream. It ends with this one, whose end closes its standard input."""

    def __init__(self, config: DataConfig, streaming: list[tuple[int, Path]], tokenizer: Tokenizer) -> None:
        work = {
            "config": config.model_dump(mode="json"),
            "sources": [[number, str(folder)] for number, folder in streaming],
            "tokenizer": tokenizer.to_json(),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nanogrove.data.text.prepare"],  # -P: no module of the folder it is started in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "USE_TORCH": "0"},  # which datasets would import for nothing
            start_new_session=True,  # Ctrl-C ends the run after its step, and the run ends this
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `check` says what it died of
            self.process.stdin.write(json.dumps(work) + "\n")
            self.process.stdin.flush()
        self.end = weakref.finalize(self, _end, self.process)

    def check(self) -> bool:
        """Whether the process has ended. Raises DataError where that was with an error."""
        if self.process.poll():
            assert self.process.stdout is not None
            message = self.process.stdout.read().strip() if not self.process.stdout.closed else ""
            raise DataError(message or f"the process that reads the data ended with status {self.process.returncode}")
        return self.process.returncode == 0


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process, if it has not ended yet; what it committed stays."""
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
                time.sleep(0.2)  # all that is left is being written by others
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
                    trim(folder, read_index(folder))  # what was not committed takes space
                    raise
                return
        yield False


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
