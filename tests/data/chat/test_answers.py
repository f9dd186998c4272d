"""Preferences and scores as conversations: prompts and answers, whose tokens are those of `trl`."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.chat.test_encoding import END, their_tokenizer, tiny_model

from nanogrove.corpora import make_corpus
from nanogrove.data.chat.answers import whole_conversations
from nanogrove.data.chat.conversations import BadConversationError
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rewarded_files import PreferencesConfig, RewardedConfig
from nanogrove.errors import DataError

PROMPTS = [
    [{"role": "user", "content": f"Name {n}"}]
    if n % 2
    else [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Count {n}"},
        {"role": "assistant", "content": "Up?"},
        {"role": "user", "content": "Down."},
    ]
    for n in range(8)
]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRS = [
    {"prompt": prompt, "chosen": answer(f"Good {n}"), "rejected": answer(f"Not so good {n}")}
    for n, prompt in enumerate(PROMPTS)
]
WHOLE = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in PAIRS]
KTO: list[dict[str, Any]] = [
    {"prompt": prompt, "completion": answer(f"So {n}"), "label": n % 3 > 0} for n, prompt in enumerate(PROMPTS)
]


def corpus_of(folder: Path, rows: list[Any], size: int = 64, **more: Any) -> RewardedCorpus:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"path": str(path), "template": "plain", "tokenizer": "bpe", "vocab_size": 280, **more}
    kind = PreferencesConfig if settings["type"] == "preferences" else RewardedConfig
    corpus = make_corpus(kind(**settings), size, 4, 0)
    assert isinstance(corpus, RewardedCorpus)
    return corpus


def tokens_of(corpus: RewardedCorpus) -> list[tuple[list[int], list[int]]]:
    """The tokens of each prompt, and of the text that follows it."""
    rows = zip(corpus.tokens.tolist(), corpus.start.tolist(), corpus.stop.tolist(), strict=True)
    return [(row[:start], row[start:stop]) for row, start, stop in rows]


def arguments(folder: Path) -> dict[str, Any]:
    plain = {"output_dir": str(folder / "trl"), "use_cpu": True, "report_to": "none", "bf16": False}
    return {**plain, "gradient_checkpointing": False, "max_length": 64}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("rows", [PAIRS, WHOLE])
def test_pairs_are_those_of_trl(rows: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    corpus = corpus_of(tmp_path, rows, type="preferences", prompt="prompt" if rows is PAIRS else None)
    trainer = DPOTrainer(
        *[tiny_model(corpus.tokenizer.vocab_size) for _ in range(2)],
        args=DPOConfig(**arguments(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=their_tokenizer(corpus.tokenizer),
    )
    theirs = [
        (row["prompt_ids"], row[f"{side}_ids"]) for row in trainer.train_dataset for side in ("chosen", "rejected")
    ]
    assert tokens_of(corpus) == theirs
    assert corpus.rewards.tolist() == [1, 0] * len(rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning")
def test_scored_answers_are_those_of_trl(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    corpus = corpus_of(tmp_path, KTO, type="rewarded", prompt="prompt", text="completion", reward="label")
    trainer = KTOTrainer(
        *[tiny_model(corpus.tokenizer.vocab_size) for _ in range(2)],
        args=KTOConfig(**arguments(tmp_path), per_device_train_batch_size=2),
        train_dataset=Dataset.from_list(KTO),
        processing_class=their_tokenizer(corpus.tokenizer),
    )
    assert tokens_of(corpus) == [(row["prompt_ids"], row["completion_ids"]) for row in trainer.train_dataset]
    assert corpus.rewards.tolist() == [float(row["label"]) for row in KTO]


@pytest.mark.parametrize("rows", [PAIRS, WHOLE])
def test_pairs_are_prompts_and_answers_of_the_template(rows: list[Any], tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, rows, type="preferences", prompt="prompt" if rows is PAIRS else None)
    spelled = [
        tuple(corpus.tokenizer.backend.decode(ids, skip_special_tokens=False) for ids in side)
        for side in tokens_of(corpus)
    ]
    assert spelled[:4] == [
        (
            "<|system|>Be brief.<|end|><|user|>Count 0<|end|><|assistant|>Up?<|end|><|user|>Down.<|end|><|assistant|>",
            f"{text}<|end|>",
        )
        for text in ("Good 0", "Not so good 0")
    ] + [("<|user|>Name 1<|end|><|assistant|>", f"{text}<|end|>") for text in ("Good 1", "Not so good 1")]
    assert [corpus.tokenizer.backend.id_to_token(token) for token in corpus.stops] == [END, "<|end|>"]


def test_rows_that_are_no_conversations_are_counted(tmp_path: Path) -> None:
    bad: list[Any] = [
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
        {"prompt": PROMPTS[1], "chosen": [], "rejected": answer("b")},
        {"prompt": [], "chosen": answer("a"), "rejected": answer("b")},
        {"prompt": PROMPTS[1], "chosen": [*answer("a"), PROMPTS[1][0]], "rejected": answer("b")},
        {"prompt": PROMPTS[1], "chosen": answer("a <|end|>"), "rejected": answer("b")},
        {"prompt": PROMPTS[1], "chosen": answer("a"), "rejected": answer("a")},
    ]
    corpus = corpus_of(tmp_path, PAIRS + bad, type="preferences")
    assert corpus.left_out()[0] == {
        "not a list of messages, each of role and content": 1,
        "an empty conversation": 1,
        "roles out of order: message 1 is the assistant's, not the user's": 1,
        "an answer that does not end with the assistant's message": 1,
        "a message spells the special token <|end|>": 1,
        "needs two different texts": 1,
    }
    assert corpus.tokenizer.chat_template is not None
    assert END not in "".join(corpus.texts)
    with pytest.raises(DataError, match="no row can be used"):
        corpus_of(tmp_path, bad, type="preferences")


def test_without_a_template_messages_are_joined(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, PAIRS, type="preferences", template=None)
    assert corpus.prompts[2] == "User: Name 1"
    assert corpus.texts[2] == "Assistant: Good 1"
    assert corpus.tokenizer.chat_template is None


def test_whole_conversations() -> None:
    assert whole_conversations(PROMPTS[1], [answer("a")]) == [PROMPTS[1] + answer("a")]
    assert whole_conversations(None, [PROMPTS[1] + answer("a")]) == [PROMPTS[1] + answer("a")]
    with pytest.raises(BadConversationError, match="roles out of order"):
        whole_conversations(PROMPTS[1], [PROMPTS[1] + answer("a")])
