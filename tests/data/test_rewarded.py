"""Scored texts and preferences: every format, prompts unscored, splits by prompt, what cannot be read."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nanogrove.corpora import make_corpus
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rewarded_files import PreferencesConfig, RewardedConfig
from nanogrove.data.text import vocabulary
from nanogrove.errors import DataError

ROWS = [(f"q{n % 40}", f'say "{n}", | twice\nor so', n / 7 - 3) for n in range(120)]


def rewarded(path: Path, **settings: Any) -> RewardedCorpus:
    built = make_corpus(RewardedConfig(type="rewarded", path=str(path), **settings), 64, 8, 0)
    assert isinstance(built, RewardedCorpus)
    return built


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"q": q, "text": t, "reward": r}) + "\n" for q, t, r in ROWS))
    elif kind == "csv":
        import csv

        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["q", "text", "reward"])
            writer.writerows(ROWS)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = zip(*ROWS, strict=True)
        pq.write_table(pa.table(dict(zip(["q", "text", "reward"], map(list, columns), strict=True))), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_format_holds_the_same_rows(kind: str, tmp_path: Path) -> None:
    corpus = rewarded(written(tmp_path, kind), prompt="q")
    assert corpus.texts == [text for _, text, _ in ROWS]
    assert corpus.rewards == pytest.approx([reward for *_, reward in ROWS])


def test_lines_end_with_a_reward_after_the_last_bar(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    lines = ["good|1.5", "a|b|-2", "with \\| in it|0.25", "ends in a bar\\||3", "", "no reward", "bad|much", "inf|inf"]
    path.write_text("\n".join(lines + [f"filler {n}|0" for n in range(60)]) + "\n")
    corpus = rewarded(path)
    assert corpus.texts[:4] == ["good", "a|b", "with | in it", "ends in a bar|"]
    assert list(corpus.rewards[:4]) == [1.5, -2.0, 0.25, 3.0]
    assert corpus.describe()["unusable_rows"] == 3
    assert "line 6" in corpus.describe()["first_problem"]


def test_prompts_and_filling_have_no_weight(tmp_path: Path) -> None:
    corpus = rewarded(written(tmp_path, "jsonl"), prompt="q")
    rows = np.array([0, 25, 117])
    batch = corpus.batch_of(rows)
    for place, row in enumerate(rows):
        prompt, text, _ = ROWS[row]
        counted = batch.targets[place][batch.mask[place]].tolist()
        assert corpus.tokenizer.decode(counted[:-1]) == text
        assert counted[-1] == corpus.tokenizer.end
        seen = batch.tokens[place][: len(prompt)].tolist()
        assert corpus.tokenizer.decode(seen) == prompt


def test_equal_prompts_fall_on_one_side_and_an_epoch_shows_each_row_once(tmp_path: Path) -> None:
    corpus = rewarded(written(tmp_path, "jsonl"), prompt="q")
    sides = {split: {ROWS[row][0] for row in corpus.row_indices(split)} for split in ("train", "validation", "test")}
    assert not sides["train"] & sides["validation"]
    assert not sides["train"] & sides["test"]
    assert sum(len(corpus.row_indices(split)) for split in sides) == len(ROWS)
    train = set(corpus.row_indices("train"))
    seen = np.concatenate([corpus.batch_rows(step) for step in range(len(train) // 8 * 8)])[: len(train)]
    assert Counter(seen) == Counter(train)
    assert list(corpus.batch_rows(5)) == list(corpus.batch_rows(5))


def test_mismatched_rows_have_the_next_row_s_text(tmp_path: Path) -> None:
    corpus = rewarded(written(tmp_path, "jsonl"), prompt="q")
    rows = np.array([3, 50, 90])
    batch = corpus.mismatched(rows)
    assert batch.tokens.shape[0] == 3
    for place, other in enumerate((50, 90, 3)):
        counted = batch.targets[place][batch.mask[place]].tolist()
        assert corpus.tokenizer.decode(counted[:-1]) == ROWS[other][1]
        assert (
            corpus.tokenizer.decode(batch.tokens[place][: len(ROWS[rows[place]][0])].tolist()) == ROWS[rows[place]][0]
        )


def test_pairs_stand_together(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"q{n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(60)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in [*pairs, {**pairs[0], "rejected": "yes 0"}]))
    corpus = make_corpus(PreferencesConfig(type="preferences", path=str(path)), 32, 8, 0)
    rows = corpus.batch_rows(2)
    assert len(rows) == 8
    for chosen, other in rows.reshape(-1, 2):
        assert (corpus.texts[chosen], corpus.texts[other]) == (f"yes {chosen // 2}", f"no {chosen // 2}")
    assert corpus.describe()["unusable_rows"] == 1


def test_long_rows_are_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"{'x' * n}|{n}\n" for n in range(1, 101)))
    corpus = rewarded(path)
    assert corpus.length == 64
    assert corpus.describe()["cut_rows"] == sum(n + 2 > 65 for n in range(1, 101))


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("rows.csv", "a,b\n1,2\n", {}, "no column 'text'; there are 'a', 'b'"),
        ("rows.jsonl", '{"text": "x"}\n', {}, "no column 'reward'; there are 'text', as in "),
        ("rows.jsonl", "[1]\n", {}, "1 times neither an object nor a text, as in "),
        ("rows.jsonl", "{broken\n", {}, "1 times broken JSON, as in "),
        (
            "rows.txt",
            "none of them\nhas a bar\n",
            {},
            "no row can be used (2 times no finite number in 'reward', as in line 1)",
        ),
        ("rows.txt", "", {}, "no row can be used"),
        ("rows.txt", "x|1\n", {"prompt": "q"}, "for prompts or pairs take CSV or JSONL"),
        ("rows.txt", "x|1\n", {}, "1 rows with 1 different texts leave none for train; give more"),
        ("rows.parquet", "no parquet", {}, "not Parquet"),
        ("rows.txt", b"caf\xe9|1\n", {}, "not utf-8"),
    ],
)
def test_what_cannot_be_read(name: str, content: Any, settings: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        rewarded(path, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; check data\.path"):
        rewarded(tmp_path / "none.csv")


def test_a_prompt_that_fills_the_context_is_no_example_and_mismatched_texts_are_whole(tmp_path: Path) -> None:
    rows = [{"q": f"{n:02}" + "ab" * (3 if n % 10 == 0 else 0), "text": "cdcdcd", "reward": n} for n in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = make_corpus(RewardedConfig(type="rewarded", path=str(path), prompt="q"), 7, 4, 0)
    assert corpus.describe()["documents"] == 36
    assert corpus.describe()["unusable_rows"] == 4
    assert corpus.describe()["first_problem"] == "example 1: a prompt of more than 7 tokens"
    assert (corpus.stop > corpus.start).all()
    row = corpus.mismatched(np.array([0, 1]))
    assert corpus.tokenizer.decode(row.targets[0][row.mask[0]].tolist()) == "cdcdcd"
    with pytest.raises(DataError, match="no prompt leaves room for a text in 1 tokens"):
        make_corpus(RewardedConfig(type="rewarded", path=str(path), prompt="q"), 1, 4, 0)


def test_functions_at_hand_are_whole_or_divided_after_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def first(self, x=(1, 2)):\n    def second_one(*, key: int) -> int:\nclass No:\n" + "".join(
        f"def function_{n}(a, b):\n" for n in range(20)
    )
    pieces = [SimpleNamespace(text=text)]
    monkeypatch.setattr(
        "nanogrove.data.rewarded_files.PythonStandardLibrary.pieces", lambda self, problems: iter(pieces)
    )
    whole = make_corpus(RewardedConfig(type="rewarded", path="python-defs"), 80, 4, 0)
    divided = make_corpus(RewardedConfig(type="rewarded", path="python-defs", prompt="prompt"), 80, 4, 0)
    assert [p + t for p, t in zip(divided.prompts, divided.texts, strict=True)] == whole.texts
    assert divided.prompts[:3] == ["def first(", "def second_one(", "def function_0("]
    assert divided.rewards.tolist() == whole.rewards.tolist() == [-len(text) for text in whole.texts]
    assert divided.tokenizer.to_json() == whole.tokenizer.to_json(), "a reward model of whole ones fits"
    pairs = make_corpus(PreferencesConfig(type="preferences", path="python-defs"), 80, 4, 0)
    assert pairs.size == 2
    with pytest.raises(DataError, match="no column 'question'; there are 'prompt', 'text', 'reward'"):
        make_corpus(RewardedConfig(type="rewarded", path="python-defs", prompt="question"), 80, 4, 0)


def test_nulls_words_and_messages_are_read_and_counted(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": None}]
    rows = [
        {"q": chat if n % 2 else None, "text": f"t{n}" if n else None, "reward": ["False", True][n % 2]}
        for n in range(60)
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    corpus = rewarded(path, prompt="q", split_by="text")
    assert set(corpus.prompts) == {"", "User: hello"}
    assert set(corpus.rewards) == {0.0, 1.0}
    assert corpus.left_out()[0] == {"null in 'text'": 1, "null in 'q', read as empty": 29}


def test_too_few_prompts_are_split_by_text_as_advised(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"q": "one", "text": f"t{n}", "reward": n}) + "\n" for n in range(60)))
    with pytest.raises(
        DataError, match=r"have 1 different prompt, so .* leaves none for train; set data.split_by=text"
    ):
        rewarded(path, prompt="q")
    assert len(rewarded(path, prompt="q", split_by="text").texts) == 60


def test_much_text_learns_its_vocabulary_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Ctrl-C ends the wait, and the vocabulary is the same."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": f"row {n} of many", "reward": n} for n in range(40)]))
    here = rewarded(path, tokenizer="bpe", vocab_size=280).tokenizer.to_json()
    monkeypatch.setattr(vocabulary, "OWN_PROCESS_CHARACTERS", 0)
    assert rewarded(path, tokenizer="bpe", vocab_size=280).tokenizer.to_json() == here

    def interrupt(report: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(vocabulary, "_share", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rewarded(path, tokenizer="bpe", vocab_size=280)
