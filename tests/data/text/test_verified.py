"""A cache is checked: what a model learns from is what was written, and damage is one line and made anew."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogrove.config.overrides import resolve
from nanogrove.data.splits import SPLITS
from nanogrove.data.text import prepare as preparing
from nanogrove.data.text import shards, verified, vocabulary
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.data.text.prepare import prepare, write
from nanogrove.data.text.shards import read_index
from nanogrove.data.tokenizer import byte_tokenizer
from nanogrove.errors import DataError
from nanogrove.runs.train import train


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {n} of the text, {'x' * (n * 7 % 20)}\n\n" for n in range(1000)))
    return path


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and digests of a few kilobytes."""
    monkeypatch.setenv("NANOGROVE_CACHE", str(tmp_path / "cache"))
    for module in (shards, verified):
        monkeypatch.setattr(module, "TOKENS_PER_DIGEST", 3000)


def config(text: Path, **settings: Any) -> DataConfig:
    sources = [{"type": "text", "path": str(text), "separator": "\n\n"}]
    return DataConfig.model_validate({"sources": sources, "tokenizer": "char", **settings})


def corpus(text: Path, **settings: Any) -> TextCorpus:
    return TextCorpus(config(text, **settings), block_size=16, batch_size=4, seed=5)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path: Path) -> None:
    """Changes one byte, and gives the file its old times back."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte": flip,
    "a cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "all of it": lambda path: os.truncate(path, 0),
    "no file": lambda path: path.unlink(),
    "a folder in its place": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", list(DAMAGE)[:4])
@pytest.mark.parametrize("name", ["train-00000.bin", "test-00000.bin", "index.json"])
def test_damage_before_a_start_is_made_good(text: Path, damage: str, name: str) -> None:
    folder = corpus(text).sources[0].folder
    whole = files(folder)
    DAMAGE[damage](folder / name)
    assert corpus(text).sources[0].folder == folder
    assert files(folder) == whole


@pytest.mark.parametrize("damage", list(DAMAGE)[:4])
def test_a_damaged_vocabulary_is_learned_again(text: Path, tmp_path: Path, damage: str) -> None:
    whole = corpus(text).tokenizer.to_json()
    (path,) = (tmp_path / "cache").glob("*/vocabulary.json")
    DAMAGE[damage](path)
    assert corpus(text).tokenizer.to_json() == whole


REASONS = {
    "a byte": "its digest differs",
    "a cut": "it is cut off",
    "all of it": "it is cut off",
    "no file": "No such file or directory",
    "a folder in its place": "Is a directory",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_while_a_corpus_is_open_is_one_line(text: Path, damage: str) -> None:
    open_corpus = corpus(text)
    open_corpus.batch(0)
    path = open_corpus.sources[0].folder / "train-00000.bin"
    DAMAGE[damage](path)
    with pytest.raises(DataError) as error:
        _ = [open_corpus.batch(step) for step in range(1000)]
    assert str(error.value) == (f"{path}: prepared data is damaged ({REASONS[damage]}); the next start makes it anew")
    if path.is_dir():
        path.rmdir()
    assert corpus(text).batch(7).tokens.equal(corpus(text).batch(7).tokens)


def test_a_cache_that_is_removed_while_it_is_read(text: Path) -> None:
    open_corpus = corpus(text)
    shutil.rmtree(open_corpus.sources[0].folder)
    with pytest.raises(DataError, match=r"train-00000\.bin: prepared data is damaged \(No such file"):
        open_corpus.batch(0)


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data are treated as large ones."""
    monkeypatch.setattr(verified, "AT_ONCE_BYTES", 0)


def wait_for_the_background() -> None:
    for thread in threading.enumerate():
        if thread.name == "verify tokens":
            thread.join()


def damage_far_ahead(text: Path) -> TextCorpus:
    """A corpus whose last training tokens are damaged, and which nobody has looked at."""
    folder = corpus(text).sources[0].folder
    wait_for_the_background()
    with (folder / "train-00000.bin").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x00\x00")
    return corpus(text)


def test_no_model_learns_from_damage(as_large: None, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogrove.data.text.corpus.verify_in_background", lambda parts: None)
    source = damage_far_ahead(text).sources[0]
    tokens = source.count("train")
    last = (tokens - 1) // 3000 * 3000
    source.read("train", np.arange(0, last - 20, 20), 20)
    with pytest.raises(DataError, match="its digest differs"):
        source.read("train", np.array([last - 5]), 6)


def test_a_large_cache_is_read_through_in_the_background(as_large: None, text: Path) -> None:
    source = damage_far_ahead(text).sources[0]
    wait_for_the_background()
    with pytest.raises(DataError, match=r"train-00000\.bin: prepared data is damaged \(its digest differs\)"):
        source.read("train", np.array([0]), 5)
    assert read_index(source.folder) is None, "the next start makes it anew"
    assert corpus(text).batch(0).tokens.shape == (4, 16)
    wait_for_the_background()


def test_held_out_tokens_are_compared_at_every_start(as_large: None, text: Path) -> None:
    folder = corpus(text).sources[0].folder
    wait_for_the_background()  # or it may mark the tokens that the next start makes
    whole = files(folder)
    flip(folder / "validation-00000.bin")
    corpus(text)
    assert files(folder) == whole


@pytest.mark.parametrize(
    "damage", ["a byte", *(pytest.param(how, marks=pytest.mark.slow) for how in ("a cut", "no file"))]
)
def test_a_run_whose_cache_is_damaged_is_saved_and_ends_alike(
    text: Path, tiny: Any, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (shards, verified):
        monkeypatch.setattr(module, "TOKENS_PER_DIGEST", 1 << 21)
    preset = tiny(train={"steps": 24}, save={"every": 1000}, sample={"tokens": 0})
    preset["data"] = config(text).model_dump(mode="json")
    for _ in train(resolve(preset), tmp_path / "whole"):
        pass
    (path,) = (tmp_path / "cache").glob("*/train-00000.bin")
    run = tmp_path / "run"

    def damaged_on_the_way() -> None:
        for event in train(resolve(preset), run):
            if (event.kind, event.step) == ("step", 9):
                DAMAGE[damage](path)

    with pytest.raises(DataError) as error:
        damaged_on_the_way()
    assert str(error.value).startswith(f"{path}: prepared data is damaged (")
    assert str(error.value).endswith("makes it anew; the run is saved at step 9, go on with --resume")
    for _ in train(resolve(preset), run, resume=True):
        pass
    name = "checkpoints/current/model.safetensors"
    assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_cache_that_cannot_be_written_to_is_read(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corpus(text).batch(3).tokens

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    for module in (preparing, vocabulary):
        monkeypatch.setattr(module, "write_lock", refuse)
    monkeypatch.setattr(verified, "write_file", refuse)
    open_corpus = corpus(text)
    assert open_corpus.batch(3).tokens.equal(whole)
    DAMAGE["a cut"](open_corpus.sources[0].folder / "train-00000.bin")
    cure = r"it cannot be made anew there \(Permission denied\), so set NANOGROVE_CACHE to another folder"
    with pytest.raises(DataError, match=cure):
        open_corpus.batch(4)


def test_a_file_that_is_rewritten_while_it_is_read(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its old size and times, so that only the system knows."""
    settings, status = config(text), text.stat()
    encode = preparing.Tokenizer.encode_batch

    def rewriting(self: Any, texts: Any) -> Any:
        text.write_text(text.read_text().replace("line", "LINE"))
        os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
        return encode(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(preparing.Tokenizer, "encode_batch", rewriting)
        with pytest.raises(DataError, match=r"text\.txt: was changed while it was read; start again"):
            prepare(settings)
    again = TextCorpus(settings, 16, 4, 5)
    tokens = again.sources[0].read("train", np.array([0]), 30)[0].tolist()
    assert "LINE" in again.tokenizer.decode(tokens)


def test_a_small_file_that_is_rewritten_later_is_read_again(text: Path) -> None:
    status, folder = text.stat(), corpus(text).sources[0].folder
    text.write_text(text.read_text().replace("line", "enil"))
    os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = corpus(text)
    assert again.sources[0].folder == folder
    assert "enil" in again.tokenizer.decode(again.sources[0].read("train", np.array([0]), 30)[0].tolist())


def test_tokens_that_the_vocabulary_lacks_are_refused(text: Path) -> None:
    """In an index that agrees with itself, as no accident leaves it."""
    open_corpus = corpus(text)
    source = open_corpus.sources[0]
    path = source.folder / "train-00000.bin"
    path.write_bytes(b"\xff" * path.stat().st_size)
    writer = shards.RunningDigests(2)
    writer.add(path.read_bytes())
    source.index["splits"]["train"]["digests"] = writer.digests()
    with pytest.raises(DataError, match="it holds tokens that are not in the vocabulary"):
        open_corpus.batch(0)


@pytest.mark.parametrize("size", [1, 999, 3000, 3001, 20_000])
def test_digests_do_not_depend_on_how_tokens_come(size: int) -> None:
    data = np.random.default_rng(0).integers(256, size=2 * 10_007, dtype=np.uint8).tobytes()
    running = shards.RunningDigests(2)
    for at in range(0, len(data), size):
        running.add(data[at : at + size])
    parts = [data[at : at + 6000] for at in range(0, len(data), 6000)]
    assert running.digests() == [shards.digest_of(part).hexdigest() for part in parts]


def test_two_processes_on_one_damaged_cache(text: Path, tmp_path: Path) -> None:
    """Both start at once; one makes it anew, and neither fails."""
    folder = corpus(text, tokenizer="byte").sources[0].folder
    whole = files(folder)
    flip(folder / "train-00000.bin")
    script = (
        "import sys; from nanogrove.data.text import shards, verified, prepare as p\n"
        "shards.TOKENS_PER_DIGEST = verified.TOKENS_PER_DIGEST = 3000\n"
        f"c = p.DataConfig.model_validate({config(text, tokenizer='byte').model_dump(mode='json')!r})\n"
        "sys.stdin.readline(); print(p.prepare(c).folders[0])"
    )
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    processes = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate() == (f"{folder}\n", "")
    assert files(folder) == whole


def try_indices(mutate: Any, text: Path, first: int, count: int) -> None:
    """Starts with mutations of the index, and compares all tokens."""
    settings = config(text)
    open_corpus = TextCorpus(settings, 16, 4, 5)
    folder = open_corpus.sources[0].folder
    whole, index = files(folder), json.loads((folder / "index.json").read_bytes())
    for seed in range(first, first + count):
        generator = np.random.default_rng(seed)
        (folder / "index.json").write_bytes(mutate(index, generator))
        if seed % 3 == 0:
            victim = folder / f"{SPLITS[seed // 3 % 3]}-00000.bin"
            data = bytearray(victim.read_bytes())
            data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
            victim.write_bytes(bytes(data[: None if seed % 2 else generator.integers(len(data))]))
        prepare(settings)
        assert {**files(folder), "index.json": b""} == {**whole, "index.json": b""}, seed


def test_mutations_of_an_index_are_seen(mutate: Any, text: Path) -> None:
    try_indices(mutate, text, 0, 24)


@pytest.mark.slow
def test_many_mutations_of_an_index_are_seen(mutate: Any, text: Path) -> None:
    try_indices(mutate, text, 1000, 600)


def test_an_index_with_a_right_checksum_and_senseless_content(mutate: Any, text: Path) -> None:
    """Whoever forges it gets what every missing index gets."""
    folder = corpus(text).sources[0].folder
    index = json.loads((folder / "index.json").read_bytes())
    index.pop("checksum")
    refused = 0
    for seed in range(150):
        try:
            forged = json.loads(mutate(index, np.random.default_rng(seed)))
            forged["checksum"] = shards._checksum(forged)
            (folder / "index.json").write_text(json.dumps(forged))
        except (ValueError, TypeError):
            continue
        refused += read_index(folder) is None
    assert refused > 75


def test_a_writer_goes_on_with_the_digests_where_it_was(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (preparing, "TOKENS_PER_COMMIT", 1000),
        (preparing, "BATCH_CHARACTERS", 500),
        (preparing, "streams", lambda source: True),
        (shards, "TOKENS_PER_SHARD", 5000),
    ):
        monkeypatch.setattr(module, name, value)
    settings, tokenizer = config(text), byte_tokenizer()
    for folder, kills in ((tmp_path / "whole", 0), (tmp_path / "cut", 5)):
        folder.mkdir()
        for kill in range(kills):
            writer = write(settings, settings.all_sources[0], folder, tokenizer)
            for _ in range(kill + 1):
                next(writer)
            writer.close()
        for _ in write(settings, settings.all_sources[0], folder, tokenizer):
            pass
    whole, cut = (read_index(tmp_path / name) for name in ("whole", "cut"))
    assert whole is not None
    assert cut is not None
    assert whole["splits"] == cut["splits"]
    assert len(whole["splits"]["train"]["digests"]) > 5
    verified.VerifiedTokens(tmp_path / "cut", tokenizer.vocab_size).verify_all(cut)
