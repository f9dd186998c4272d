"""Documents, splits, shards and batches: nothing lost, nothing shared between splits, any batch by its number."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from nanogrove.data.rng import permuted, random
from nanogrove.data.sources import pieces as cutting
from nanogrove.data.sources.pieces import Piece, Skipped
from nanogrove.data.sources.text import PythonStandardLibrary, TextSource
from nanogrove.data.splits import SPLITS
from nanogrove.data.text import shards
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.data.text.prepare import prepare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 documents that say their own number."""
    for n in range(300):
        path = tmp_path / "texts" / f"{n % 7}" / f"{n:03}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<{n}> " + f"document {n} says so.\n" * (1 + n % 5))
    return tmp_path / "texts"


def corpus(path: Path, **settings: object) -> TextCorpus:
    options = {"sources": [str(path)], "tokenizer": "char", "validation": 0.2, "test": 0.1, **settings}
    return TextCorpus(DataConfig.model_validate(options), block_size=16, batch_size=4, seed=5)


def everything(text_corpus: TextCorpus, split: str) -> np.ndarray:
    return text_corpus.sources[0].read(split, np.array([0]), text_corpus.sources[0].count(split))[0]


def text_of(text_corpus: TextCorpus, split: str) -> str:
    ids = everything(text_corpus, split).tolist()
    return "".join("|" if i == text_corpus.tokenizer.end else text_corpus.tokenizer.decode([i]) for i in ids)


def test_splits_by_document_hold_every_document_once(folder: Path) -> None:
    text_corpus = corpus(folder)
    documents = [doc for split in SPLITS for doc in text_of(text_corpus, split).split("|")[1:]]
    assert sorted(documents) == sorted(path.read_text() for path in folder.rglob("*.txt"))
    assert text_corpus.describe()["documents"] == 300
    shares = [text_corpus.sources[0].index["splits"][split]["documents"] / 300 for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.07)


def test_equal_documents_fall_on_one_side(folder: Path) -> None:
    for path in list(folder.rglob("*.txt")):
        (folder / f"copy-{path.name}").write_text(path.read_text())
    text_corpus = corpus(folder)
    held = [set(text_of(text_corpus, split).split("|")[1:]) for split in SPLITS]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_one_document_is_split_by_position(tmp_path: Path) -> None:
    text = "".join(chr(97 + n % 26) for n in range(10_000))
    (tmp_path / "one.txt").write_text(text)
    text_corpus = corpus(tmp_path / "one.txt")
    assert text_of(text_corpus, "train") == "|" + text[:7000]
    assert text_of(text_corpus, "validation") == text[7000:9000]
    assert text_of(text_corpus, "test") == text[9000:]


def test_long_documents_and_separators_lose_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 50)
    text = "".join(f"line {n}\n" * (n % 9) + "==\n" * (n % 2) for n in range(200))
    path = tmp_path / "long.txt"
    path.write_text(text)
    whole = list(TextSource(path=str(path)).pieces(Skipped()))
    assert "".join(piece.text for piece in whole) == text
    assert [piece.first for piece in whole] == [True] + [False] * (len(whole) - 1)
    assert all(len(piece.text) <= 50 for piece in whole)
    documents: list[str] = []
    for piece in TextSource(path=str(path), separator="==\n").pieces(Skipped()):
        if piece.first:
            documents.append("")
        documents[-1] += piece.text
    assert documents == [doc for doc in text.split("==\n") if doc]


def test_shards_join_without_a_seam(folder: Path, monkeypatch) -> None:
    whole = corpus(folder)
    monkeypatch.setattr(shards, "TOKENS_PER_SHARD", 500)
    monkeypatch.setenv("NANOGROVE_CACHE", str(folder.parent / "other"))
    cut = corpus(folder)
    assert len(cut.sources[0].index["splits"]["train"]["shards"]) > 5
    starts = np.arange(0, len(everything(cut, "train")) - 40, 7)
    assert np.array_equal(cut.sources[0].read("train", starts, 40), whole.sources[0].read("train", starts, 40))


def test_an_epoch_shows_every_window_once_and_the_next_in_another_order(folder: Path) -> None:
    text_corpus = corpus(folder)
    count, size = text_corpus.windows_per_epoch, text_corpus.length
    assert count is not None
    rows = np.concatenate([text_corpus.batch(step).tokens.numpy() for step in range(-(-count // 4))])[:count]
    tokens = everything(text_corpus, "train")
    offset = next(
        o
        for o in range(size)
        if {tuple(tokens[o + w * size : o + w * size + size]) for w in range(count)} == {tuple(r) for r in rows}
    )
    assert text_corpus.batch(0).tokens.shape == (4, 16), f"found at {offset}"
    second = np.concatenate([text_corpus.batch(step).tokens.numpy() for step in range(count // 4 + 1, count // 2)])
    assert not np.array_equal(rows[: len(second)], second)


def test_a_batch_is_a_function_of_seed_and_step(folder: Path) -> None:
    one, other = corpus(folder), corpus(folder)
    for step in (7, 0, 100_000, 7):
        assert one.batch(step).tokens.equal(other.batch(step).tokens)
    assert not one.batch(0).tokens.equal(one.batch(1).tokens)
    batch = one.batch(3)
    assert batch.tokens[:, 1:].equal(batch.targets[:, :-1])
    assert batch.mask.all()
    assert batch.weight.eq(1).all()


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000])
def test_permuted_is_a_permutation(size: int) -> None:
    image = permuted(np.arange(size), size, random(0, "order", size))
    assert sorted(image.tolist()) == list(range(size))


def test_windows_cover_a_split_without_overlap(folder: Path) -> None:
    text_corpus = corpus(folder)
    targets = [t for batch in text_corpus.eval_batches("validation") for row in batch.targets.tolist() for t in row]
    assert targets == everything(text_corpus, "validation")[1:].tolist()
    scored_tokens = sum(int(batch.mask.sum()) for batch in text_corpus.eval_batches("validation", 100))
    assert 100 <= scored_tokens <= 220


def test_bytes_per_token_counts_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é" * 1000, encoding="utf-8")
    text_corpus = corpus(tmp_path / "a.txt")
    assert text_corpus.bytes_per_token("validation") == 2.0


def test_prepared_data_is_found_again_and_made_anew_when_damaged(folder: Path) -> None:
    config = DataConfig.model_validate({"sources": [str(folder)], "tokenizer": "byte"})
    (first,) = prepare(config).folders
    stamp = (first / "index.json").stat().st_mtime_ns
    assert prepare(config).folders == [first]
    assert (first / "index.json").stat().st_mtime_ns == stamp
    (first / "train-00000.bin").write_bytes(b"short")
    before = json.loads((first / "index.json").read_text())
    assert prepare(config).folders == [first]
    assert json.loads((first / "index.json").read_text()) == before
    assert (first / "train-00000.bin").stat().st_size == 2 * before["splits"]["train"]["tokens"]


def test_changed_text_or_options_make_other_data(folder: Path) -> None:
    config = DataConfig.model_validate({"sources": [str(folder)], "tokenizer": "byte"})
    (first,) = prepare(config).folders
    assert prepare(config.model_copy(update={"validation": 0.3})).folders != [first]
    next(folder.rglob("*.txt")).write_text("another text")
    assert prepare(config).folders != [first]


def test_a_vocabulary_above_65536_uses_wider_tokens(tmp_path: Path) -> None:
    blocks = ((0x4E00, 20_000), (0xAC00, 11_000), (0x20000, 42_000))
    text = "".join(chr(start + n % size) for n in range(50_000) for start, size in blocks)
    (tmp_path / "wide.txt").write_text(text, encoding="utf-8")
    text_corpus = corpus(tmp_path / "wide.txt")
    assert text_corpus.sources[0].index["dtype"] == "<u4"
    assert text_corpus.tokenizer.vocab_size > 1 << 16
    assert text_of(text_corpus, "train")[1:] == text[: int(len(text) * 0.7)]


def test_the_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert list(TextSource(path=str(tmp_path / "bom.txt")).pieces(Skipped())) == [Piece("hello", True)]


def test_the_standard_library_is_read_where_it_is() -> None:
    files = PythonStandardLibrary().files()
    assert {"dataclasses.py", "argparse.py"} <= {path.name for path in files}
    assert not [p for p in files if {"site-packages", "test", "tests"} & set(p.parts[-4:-1])]
    assert 5e6 < sum(path.stat().st_size for path in files) < 3e7


def test_shares_that_leave_nothing_to_train_on(folder: Path) -> None:
    with pytest.raises(ValidationError, match="leave nothing to train on"):
        corpus(folder, validation=0.6, test=0.4)
