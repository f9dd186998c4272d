"""Conversations as batches: what is scored, packed and alone; what is left out; the vocabulary and the template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.corpora import make_corpus
from nanogrove.data.chat.config import ChatConfig
from nanogrove.data.chat.corpus import ChatCorpus
from nanogrove.data.chat.template import PLAIN
from nanogrove.data.tokenizer import byte_tokenizer
from nanogrove.errors import DataError

Make = Callable[..., ChatCorpus]


def talk(number: int, turns: int = 1) -> list[dict[str, str]]:
    messages = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"ask {number} {turn}"})
        messages.append({"role": "assistant", "content": f"say {number}"})
    return messages


@pytest.fixture
def chat(tmp_path: Path) -> Make:
    def make(rows: list[Any] | None = None, block_size: int = 64, batch_size: int = 4, **more: Any) -> ChatCorpus:
        path = tmp_path / "rows.jsonl"
        rows = [{"messages": talk(n, 1 + n % 3)} for n in range(60)] if rows is None else rows
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = ChatConfig(**{"type": "chat", "path": str(path), "tokenizer": "char", "packed": False, **more})
        corpus = make_corpus(config, block_size, batch_size, 3)
        assert isinstance(corpus, ChatCorpus)
        return corpus

    return make


def spelled(corpus: ChatCorpus, ids: torch.Tensor) -> str:
    return corpus.tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False).replace("<|endoftext|>", "~")


def test_the_assistant_alone_is_scored(chat: Make) -> None:
    corpus = chat()
    batch = corpus.batch(0)
    for tokens, targets, mask in zip(batch.tokens, batch.targets, batch.mask, strict=True):
        text = spelled(corpus, tokens)
        assert text.startswith("<|user|>ask ")
        answers = [part.split("<|assistant|>")[1] for part in text.split("<|end|>") if "<|assistant|>" in part]
        assert spelled(corpus, targets[mask]) == "".join(f"{answer}<|end|>" for answer in answers)
    assert batch.tokens.shape[1] == corpus.length == max(len(row.ids) for row in corpus.rows) - 1
    assert batch.weight.eq(1).all()
    assert corpus.tokenizer.chat_template == PLAIN


def test_packed_windows_hold_whole_conversations_apart(chat: Make) -> None:
    alone, corpus = chat(), chat(packed=True, block_size=99)
    assert corpus.length == 99
    texts = []
    for batch in corpus.eval_batches("train"):
        for tokens, targets, mask in zip(batch.tokens, batch.targets, batch.mask, strict=True):
            whole = torch.cat([tokens, targets[-1:]])
            texts += [part for part in spelled(corpus, whole).split("~") if part]
            assert set(spelled(corpus, targets[mask]).replace("say ", "").replace("<|end|>", "")) <= set("0123456789")
    assert sorted(texts) == sorted(spelled(alone, torch.from_numpy(row.ids)) for row in trained(alone))
    scored = sum(int(batch.mask.sum()) for batch in corpus.eval_batches("train"))
    assert scored == sum(int(row.scored.sum()) for row in trained(alone)) == corpus.describe()["train_tokens"]
    assert corpus.windows_per_epoch < alone.windows_per_epoch


def trained(corpus: ChatCorpus) -> list[Any]:
    return [corpus.rows[number] for window in corpus.windows["train"] for number in window]


def test_batches_are_functions_of_the_step_and_epochs_are_orders(chat: Make) -> None:
    corpus, size = chat(batch_size=1), chat().windows_per_epoch
    first = [corpus.batch(step).tokens for step in range(size)]
    assert len({tuple(tokens.ravel().tolist()) for tokens in first}) == size
    assert corpus.batch(5).tokens.equal(first[5])
    assert any(not corpus.batch(step + size).tokens.equal(tokens) for step, tokens in enumerate(first))
    other = corpus.reseeded(9)
    assert not all(other.batch(step).tokens.equal(first[step]) for step in range(5))


def test_equal_questions_fall_on_one_side_and_documents_are_questions(chat: Make) -> None:
    rows = [{"messages": [talk(n % 20)[0], talk(n)[1]]} for n in range(60)]
    corpus = chat(rows, validation=0.2, test=0.2)
    questions = {split: {corpus.questions[n] for w in corpus.windows[split] for n in w} for split in corpus.splits}
    assert {split: len(each) for split, each in questions.items()} == {"train": 12, "validation": 4, "test": 4}
    assert len(set.union(*questions.values())) == 20
    assert len(corpus.documents("test")) == 12
    assert len(corpus.documents("test").unique()) == 4


def test_long_conversations_are_cut_and_those_without_an_answer_left_out(chat: Make) -> None:
    rows = [{"messages": talk(n, 1 + n % 3)} for n in range(60)]
    rows += [{"messages": [{"role": "user", "content": "x" * 200}, talk(0)[1]]}]
    corpus = chat(rows, block_size=24)
    assert corpus.length == 24
    assert corpus.cut == 40
    assert corpus.left_out()[0] == {"no token of the assistant among the first 25": 1}
    assert all(batch.mask.any(-1).all() for split in corpus.splits for batch in corpus.eval_batches(split))
    with pytest.raises(DataError, match="no conversation has an answer within 3 tokens of context; raise"):
        chat(rows, block_size=3)


def test_bad_rows_are_counted_or_refused_and_no_row_is_an_error(chat: Make) -> None:
    good = [{"messages": talk(n)} for n in range(30)]
    bad: list[Any] = [{"text": "x"}, {"messages": []}, {"messages": talk(0)[:1]}, {"messages": talk(0)[::-1]}]
    bad += [{"messages": [{"role": "user", "content": "<|end|>"}, talk(0)[1]]}]
    bad += [{"messages": [{"role": "user", "content": "a <|endoftext|>"}, talk(0)[1]]}]
    corpus = chat(good + bad)
    assert corpus.left_out()[0] == {
        "not a conversation, without messages, conversations, or instruction with output": 1,
        "an empty conversation": 1,
        "no message of the assistant": 1,
        "roles out of order: message 1 is the assistant's, not the user's": 1,
        "a message spells the special token <|end|>": 1,
        "a message spells the special token <|endoftext|>": 1,
    }
    assert corpus.left_out()[1]["an empty conversation"].endswith("rows.jsonl, line 32")
    with pytest.raises(DataError, match=r"line 31: not a conversation.*; mend it, or set data.bad_rows=skip"):
        chat(good + bad, bad_rows="refuse")
    with pytest.raises(DataError, match=r"no conversation can be used \(1 times not a conversation"):
        chat(bad[:1])
    with pytest.raises(DataError, match="1 conversations with 1 different questions leave none for"):
        chat(good[:1])
    with pytest.raises(DataError, match=r"none for \w+ \(left out: 1 times an empty conversation, as in .*line 2\)"):
        chat([good[0], bad[1]])


def test_lines_of_text_are_no_conversations(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("User: hello\n" * 9)
    with pytest.raises(DataError, match="lines of text; conversations are rows of JSON lines, JSON or Parquet"):
        make_corpus(ChatConfig(type="chat", path=str(tmp_path / "a.txt")), 8, 1, 0)


def test_a_vocabulary_that_is_loaded_gets_the_tokens_it_lacks(chat: Make, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer().to_json())
    for name in ("byte", str(tmp_path / "tokenizer.json")):
        corpus = chat(tokenizer=name)
        assert corpus.tokenizer.vocab_size == 257 + 4
        assert (
            spelled(corpus, torch.from_numpy(corpus.rows[0].ids)) == "<|user|>ask 0 0<|end|><|assistant|>say 0<|end|>"
        )
    (tmp_path / "again.json").write_text(corpus.tokenizer.to_json())
    assert chat(tokenizer=str(tmp_path / "again.json")).tokenizer.to_json() == corpus.tokenizer.to_json()
    assert chat(tokenizer="bpe", vocab_size=300).tokenizer.vocab_size <= 304


def test_a_template_must_end_answers_with_a_special_token(chat: Make, tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}[e]"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(DataError, match="no special token ends what the assistant writes"):
        chat(template=str(path))
    corpus = chat(template=str(path), special_tokens=["[e]", "[user]"])
    assert spelled(corpus, torch.from_numpy(corpus.rows[0].ids)) == "[user]ask 0 0[assistant]say 0[e]"
    assert len(corpus.tokenizer.encode_marked(["[user]"])[0][0]) == 1
