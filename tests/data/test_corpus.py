"""The contract of `Corpus.documents`, in every corpus: the document of a scored sequence, counted over all tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogrove.corpora import make_corpus
from nanogrove.data.rewarded_files import PreferencesConfig, RewardedConfig
from nanogrove.data.text import reader as windows
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import HELD_OUT_STRETCHES, TextCorpus
from nanogrove.errors import DataError
from nanogrove.synthetic.corpus import RLMConfig
from nanogrove.synthetic.examples import TaskConfig

SIZE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """150 documents of 1 to 140 characters, so that windows hold several documents and documents several windows."""
    (tmp_path / "texts").mkdir()
    letters = np.random.default_rng(0)
    for n in range(150):
        (tmp_path / "texts" / f"{n:03}.txt").write_text("".join(letters.choice(list("abcdef"), 1 + n * 37 % 140)))
    return tmp_path / "texts"


def corpus(*paths: Path, **settings: Any) -> TextCorpus:
    sources = [str(path) for path in paths]
    options = {"sources": sources, "tokenizer": "char", "validation": 0.3, **settings}
    built = make_corpus(DataConfig.model_validate(options), SIZE, 4, seed=0)
    assert isinstance(built, TextCorpus)
    return built


def test_equal_documents_are_divided_as_advised(tmp_path: Path) -> None:
    (tmp_path / "same.jsonl").write_text('{"text": "the same words again"}\n' * 300)
    with pytest.raises(DataError, match=r"too few of them differ; set data\.split=tail"):
        corpus(tmp_path / "same.jsonl")
    assert corpus(tmp_path / "same.jsonl", split="tail").sources[0].count("validation") > 1000


def test_a_short_text_has_no_other_split_to_take(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with pytest.raises(DataError, match="use more text"):
        corpus(tmp_path / "a.txt")


def test_blanks_alone_are_refused_from_a_source_of_a_type_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n" * 500)
    with pytest.raises(DataError, match=r"nothing to use \(blanks alone\)"):
        TextCorpus(
            DataConfig.model_validate({"sources": {"type": "text", "path": str(tmp_path / "a.txt")}}), SIZE, 4, 0
        )


def counted(text_corpus: TextCorpus, limit: int | None) -> list[int]:
    """The number of end marks up to the start of each window, which is searched among all of the split's tokens."""
    numbers, before, batches = [], 0, list(text_corpus.eval_batches("validation", limit))
    for number, source in enumerate(text_corpus.sources):
        tokens = source.read("validation", np.array([0]), source.count("validation"))[0]
        starts_of_windows: list[object] = []
        for batch in batches:
            for row, origin in zip(batch.tokens.numpy(), batch.source.tolist(), strict=True):
                if origin == number:
                    starts = [s for s in range(0, len(tokens), SIZE) if np.array_equal(tokens[s : s + len(row)], row)]
                    later = [s for s in starts if not starts_of_windows or s > starts_of_windows[-1]]
                    starts_of_windows.append(later[0])
        marks = [int((tokens[: start + 1] == text_corpus.tokenizer.end).sum()) + before for start in starts_of_windows]
        numbers += marks
        before = max(marks) + 1
    return numbers


@pytest.mark.parametrize("limit", [None, 200])
@pytest.mark.parametrize("block", [100, 1 << 21])
def test_windows_of_documents(folder: Path, limit: int | None, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "TOKENS_PER_BLOCK", block)
    text_corpus = corpus(folder)
    numbers = text_corpus.documents("validation", limit).tolist()
    assert numbers == counted(text_corpus, limit)
    assert len(set(numbers)) > 5


def test_documents_of_several_sources_differ(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for n in range(120):
        (tmp_path / "other" / f"{n}.txt").write_text(f"other {n} " * 5)
    text_corpus = corpus(folder, tmp_path / "other")
    numbers = text_corpus.documents("validation")
    sources = np.concatenate([batch.source.numpy() for batch in text_corpus.eval_batches("validation")])
    assert len(numbers) == len(sources)
    assert not set(numbers[sources == 0].tolist()) & set(numbers[sources == 1].tolist())


def test_one_text_is_held_out_in_stretches(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("It was a bright cold day in April. " * 1000)
    text_corpus = corpus(tmp_path / "book.txt")
    numbers = text_corpus.documents("validation")
    assert len(set(numbers.tolist())) == HELD_OUT_STRETCHES
    assert (numbers.diff() >= 0).all()
    assert np.bincount(numbers.numpy()).std() < 1, "equal ones"


def test_equal_prompts_are_one_document(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n % 7}" if n < 40 else "", "text": f"t{n}", "reward": n} for n in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewarded = make_corpus(RewardedConfig(type="rewarded", path=str(path), prompt="prompt", validation=0.5), 64, 8, 0)
    for limit in (None, 100):
        numbers = rewarded.documents("validation", limit).tolist()
        kept = rewarded.row_indices("validation")
        if limit is not None:
            count = limit // rewarded.length
            kept = kept[np.arange(count) * len(kept) // count]
        keys = [rows[row]["prompt"] or str(rows[row]["text"]) for row in kept]
        assert len(numbers) == len(keys)
        for a, first in zip(numbers, keys, strict=True):
            assert [b == a for b in numbers] == [second == first for second in keys]


def test_both_texts_of_a_pair_are_one_document(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "", "chosen": f"c{n}", "rejected": f"r{n}"}) + "\n" for n in range(40))
    )
    pairs = make_corpus(PreferencesConfig(type="preferences", path=str(path), validation=0.5), 32, 8, 0)
    numbers = pairs.documents("validation").tolist()
    assert numbers == [n // 2 for n in range(len(numbers))]


def test_synthetic_sequences_are_their_own_documents_and_equal_questions_one() -> None:
    grammar = make_corpus(RLMConfig(type="rlm", v=5, L=2, held_out=60), 4, 8, 0)
    assert grammar.documents("validation").tolist() == list(range(60))
    task = make_corpus(TaskConfig(type="task", task="copy", base=(1, 2), held_out=40), 8, 8, 0)
    numbers = task.documents("validation", 300)
    rows = [tuple(row) for batch in task.eval_batches("validation", 300) for row in batch.tokens.tolist()]
    assert len(numbers) == len(rows)
    assert len(set(numbers.tolist())) == len(set(rows)) < len(rows)
