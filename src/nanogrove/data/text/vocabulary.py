"""The tokenizer that a configuration names; one that is learned from its texts is kept in the cache.

A large BPE vocabulary is learned in a process of its own, which can be interrupted and says how far it is:
`python -m nanogrove.data.text.vocabulary` reads its work as a line of JSON, and prints lines of JSON.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanogrove.atomic import read_file, write_file
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.text.assign import assign_to_splits, characters_to_split
from nanogrove.data.text.cache import SOURCE_OPTIONS, cache_folder, change_times, key_of, remove_on_error, write_lock
from nanogrove.data.text.config import DataConfig
from nanogrove.data.tokenizer import Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer, load_tokenizer
from nanogrove.errors import DataError
from nanogrove.waits import waiting

BPE_CHARACTERS = 1 << 24  # that a BPE vocabulary is learned from, at most, in equal parts from all sources
KEPT_BYTES = 1 << 28  # of a vocabulary in the cache, at most
OWN_PROCESS_CHARACTERS = 1 << 21  # from which on it is learned in a process of its own: it takes a second


def tokenizer_of(config: DataConfig, identities: list[dict[str, object]]) -> Tokenizer:
    """The tokenizer a configuration names; one that is learned is kept in the cache.

    Raises DataError where it cannot be read, or its sources change while it is learned.
    """
    if config.tokenizer == "byte":
        return byte_tokenizer()
    if config.tokenizer not in ("bpe", "char"):
        return load_tokenizer(config.tokenizer)
    options = config.model_dump(include={*SOURCE_OPTIONS, "tokenizer", "vocab_size"})
    path = cache_folder() / key_of([identities, options]) / "vocabulary.json"
    changes = [change_times(identity) for identity in identities]
    kept = _kept(path, changes)
    if kept is not None:
        return kept
    with write_lock(path.parent), remove_on_error(path.parent):
        kept = _kept(path, changes)  # another process was first
        if kept is not None:
            return kept
        if config.tokenizer == "char":
            tokenizer = character_tokenizer(_texts(config))
        else:
            tokenizer = learn_bpe(list(_bpe_texts(config)), config.vocab_size)
        text = tokenizer.to_json()
        write_file(path, json.dumps({"tokenizer": text, "change_times": changes, "digest": key_of(text)}).encode())
    return tokenizer


def _kept(path: Path, change_times: list[list[int]]) -> Tokenizer | None:
    """The tokenizer in a file of the cache; None where it is missing or damaged, or its sources have changed since."""
    try:
        kept = json.loads(read_file(path, KEPT_BYTES))
        if kept["change_times"] == change_times and kept["digest"] == key_of(kept["tokenizer"]):
            return Tokenizer.from_json(kept["tokenizer"], where=str(path))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _split_texts(config: DataConfig, number: int) -> Iterator[tuple[str, str]]:
    """The texts of a source with their splits."""
    source = config.all_sources[number]
    for split, piece in assign_to_splits(config, source, characters_to_split(config, source), Skipped()):
        yield split, piece.text


def _texts(config: DataConfig) -> Iterator[str]:
    """All texts of all sources."""
    for number, source in enumerate(config.all_sources):
        with waiting(f"reading the characters of {source.title()}", source.size()) as wait:
            for _, text in _split_texts(config, number):
                yield text
                wait.done += len(text)


def _bpe_texts(config: DataConfig) -> Iterator[str]:
    """The texts that a BPE vocabulary is learned from: the first training texts of each source."""
    most = BPE_CHARACTERS // len(config.all_sources)
    for number, source in enumerate(config.all_sources):
        with waiting(f"reading {source.title()} to learn a vocabulary", most) as wait:
            for split, text in _split_texts(config, number):
                if split == "train":
                    wait.done += len(text)
                    yield text
                    if wait.done >= most:
                        break


def learn_bpe(texts: list[str], vocab_size: int) -> Tokenizer:
    """The tokenizer that `bpe_tokenizer` gives, from much text without blocking this process.

    Raises what `bpe_tokenizer` does, and DataError where the process ends early.
    """
    if sum(map(len, texts)) < OWN_PROCESS_CHARACTERS:
        return bpe_tokenizer(texts, vocab_size)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "nanogrove.data.text.vocabulary"],  # -P: imports nothing from the working folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches this process, which ends that one
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin:
            json.dump({"texts": texts, "vocab_size": vocab_size}, process.stdin)
        with waiting(f"learning a vocabulary of {vocab_size:,} tokens", 1.0) as wait:
            for line in process.stdout:
                report = json.loads(line) if line.startswith("{") else {}
                if "tokenizer" in report:
                    return Tokenizer.from_json(report["tokenizer"])
                if "error" in report:
                    raise DataError(report["error"])
                if report.get("total"):
                    wait.done = _share(report)
    except BrokenPipeError:
        pass
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    raise DataError(f"the process that learns the vocabulary ended with status {process.returncode}; is memory short?")


def _share(report: dict[str, Any]) -> float:
    """The share of the time that merges have taken: the k-th takes about 1/k, since the frequent pairs come first."""
    return math.log1p(report["current"]) / math.log1p(report["total"]) if "merges" in report["stage"] else 0.0


def main() -> None:
    """Learns a vocabulary: prints how far it is as the library says it, and at last the tokenizer or an error."""
    os.dup2(1, 2)  # the library says how far it is there
    work = json.load(sys.stdin)
    try:
        tokenizer = bpe_tokenizer(work["texts"], work["vocab_size"], report=True)
        print(json.dumps({"tokenizer": tokenizer.to_json()}), flush=True)
    except DataError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
