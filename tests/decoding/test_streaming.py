"""Text as it comes: joined it is the text that `generate` gives, and between two pieces the model is as it was."""

from collections.abc import Iterator
from typing import Any

import pytest

from nanogrove.data.chat.template import PLAIN
from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer
from nanogrove.decoding.loop import MIN_TOKENS_TO_PACK
from nanogrove.decoding.streaming import End
from nanogrove.errors import DataError, PresetError
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.model.packing import Packable

PROMPTS = ["a", "bcd", "e"]
TEMPERATE: dict[str, Any] = {"temperature": 1.0, "seed": 5}
TOKENIZERS = {
    "char": character_tokenizer(["abcde"]),
    "byte": byte_tokenizer(),
    "bpe": bpe_tokenizer(["abcde é — abc 😀 bcd"], 270),
}


def model_of(tokenizer: Tokenizer, **settings: Any) -> LanguageModel:
    config = ModelConfig(vocab_size=tokenizer.vocab_size, block_size=16, n_layer=1, n_head=1, n_embd=16, **settings)
    heads = AuxiliaryConfig(enable_multi_token=True, enable_value=True, enable_dynamics=True)
    trunk = GPT(config).initialize(0)
    return LanguageModel(trunk, tokenizer, heads=None if trunk.memory else Heads(heads, config).initialize(1))


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return model_of(TOKENIZERS["char"])


WAYS: dict[str, dict[str, Any]] = {
    "drawn": TEMPERATE,
    "greedy": {"temperature": 0},
    "cuts and penalties": {**TEMPERATE, "top_k": 4, "top_p": 0.9, "repetition_penalty": 1.2, "no_repeat_ngram": 3},
    "int8": {**TEMPERATE, "precision": "int8"},
    "speculative": {**TEMPERATE, "speculative": True},
    "lookahead": {**TEMPERATE, "lookahead": 2},
    "reward": {**TEMPERATE, "reward": lambda texts: [float(text.count("a")) for text in texts]},
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("way", WAYS)
def test_pieces_joined_are_what_generate_gives(way: str, tokenizer: str) -> None:
    lm, options = model_of(TOKENIZERS[tokenizer]), WAYS[way]
    whole = lm.generate("abc", 30, **options)
    assert "".join(lm.stream("abc", 30, **options)) == whole
    written = whole.removeprefix("abc")
    stop = written[len(written) // 2 :][:2] or "nothing"
    assert "".join(lm.stream("abc", 30, stop=[stop], **options)) == lm.generate("abc", 30, stop=stop, **options)
    assert len(lm.generate("abc", 30, stop=stop, **options)) < len(whole) or not written


@pytest.mark.parametrize(
    "settings", [{}, {"memory_tokens": 2, "memory_segment": 4, "position": "rotary"}], ids=["", "memory"]
)
def test_rows_of_a_batch_come_as_they_are_written(settings: dict[str, Any]) -> None:
    """Rows of one length come step by step, and with a memory length by length."""
    lm = model_of(TOKENIZERS["char"], **settings)
    texts, ends = dict.fromkeys(range(3), ""), {}
    order = []
    for row, text, end in lm.pieces(PROMPTS, 6, **TEMPERATE):
        texts[row] += text
        ends[row] = end
        order.append(row)
    whole = lm.generate(PROMPTS, 6, **TEMPERATE)
    assert [prompt + text for prompt, text in zip(PROMPTS, texts.values(), strict=True)] == whole
    assert order != sorted(order)
    assert [ends[row].prompt_tokens for row in range(3)] == [1, 3, 1]
    assert {end.reason for end in ends.values()} == {"stop", "length"}
    for row, end in ends.items():
        assert end.new_tokens == len(texts[row]) + (end.reason == "stop"), "an end of text is a token"


def drained(stream: Iterator[str]) -> Any:
    while True:
        try:
            next(stream)
        except StopIteration as stop:
            return stop.value


def test_a_stream_says_how_it_ended(lm: LanguageModel) -> None:
    whole = lm.generate("a", 12, **TEMPERATE)
    assert drained(lm.stream("a", 3, **TEMPERATE)) == End("length", 1, 3)
    assert drained(lm.stream("a", 12, stop=whole[2], **TEMPERATE)) == End("stop", 1, 2)
    assert drained(lm.stream("a", 0)) == End("length", 1, 0)
    assert list(lm.stream("a", 0)) == ["a"]
    assert list(lm.pieces([], 5)) == []


def packed(lm: LanguageModel) -> list[bool]:
    return [module.packed is not None for module in lm.model.modules() if isinstance(module, Packable)]


def test_between_two_pieces_the_model_may_do_anything_else(lm: LanguageModel) -> None:
    """Other texts, in other formats, and a training step between; two streams at once disturb each other neither."""
    count = MIN_TOKENS_TO_PACK + 4
    whole = lm.generate("ab", count, **TEMPERATE)
    first, second = lm.stream("ab", count, **TEMPERATE), lm.stream("ab", count, precision="int8", **TEMPERATE)
    texts = ["", ""]
    for pieces in zip(first, second, strict=False):
        assert not any(packed(lm))
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        lm.generate("c", count, precision="bfloat16")
        assert lm.model(lm.model.embed.weight.new_zeros(1, 2).long()).requires_grad
    assert texts[0] + "".join(first) == whole
    assert texts[1] + "".join(second) == lm.generate("ab", count, precision="int8", **TEMPERATE)


def test_weights_are_packed_while_a_step_computes(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[bool]] = []
    logits = GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda *arguments: (seen.append(packed(lm)), logits(*arguments))[1])
    list(lm.stream("ab", MIN_TOKENS_TO_PACK, temperature=1.0, min_p=0.01))
    assert seen
    assert all(map(all, seen))


@pytest.mark.parametrize("stop", ["", "ca"])
def test_steps_are_the_text_of_generate_with_the_scores_of_the_model(stop: str, lm: LanguageModel) -> None:
    options: dict[str, Any] = {"seed": 8, "temperature": 1.5, "top_k": 4, "repetition_penalty": 1.3}
    options["stop"] = [stop] if stop else []
    steps = list(lm.steps("ab", 30, **options))
    (expected,) = lm.continuations(["ab"], 30, **options)
    assert "".join(step.text for step in steps) == expected.text[2:]
    assert lm.tokenizer.decode([step.token for step in steps]) == "".join(expected.tokens).removesuffix(END_OF_TEXT)
    assert [float(step.scores.softmax(-1)[step.token]) for step in steps] == pytest.approx(expected.probabilities, 1e-5)
    assert [step.end for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert len(steps) > 3
    assert steps[-1].end == (("stop" if stop or expected.tokens[-1] == END_OF_TEXT else "length"), 2, len(steps))


def test_to_close_a_stream_ends_the_work_at_once(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    hidden = GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda *arguments, **named: (calls.append(1), hidden(*arguments, **named))[1])
    stream = lm.stream("a", MIN_TOKENS_TO_PACK - 1, **TEMPERATE)
    assert [next(stream) for _ in range(3)] == [*lm.generate("a", 2, **TEMPERATE)]
    calls.clear()
    stream.close()
    assert list(stream) == []
    assert not calls
    assert not any(packed(lm))
    for _ in lm.stream("a", 10_000_000, temperature=1.0, min_p=0.01, seed=3):
        break
    assert len(calls) <= 1


def test_arguments_are_checked_before_the_first_piece_is_asked_for(lm: LanguageModel) -> None:
    with pytest.raises(PresetError, match=r"^heat: not a setting of sampling"):
        lm.stream("a", heat=1)  # type: ignore[call-arg]
    with pytest.raises(PresetError, match="do not go together"):
        lm.stream("a", lookahead=1, reward=lambda texts: [0.0 for _ in texts])
    with pytest.raises(DataError, match="is not among the"):
        lm.stream("§")
    with pytest.raises(DataError, match="no chat template"):
        lm.stream([{"role": "user", "content": "ab"}])


def test_an_answer_comes_as_chat_gives_it() -> None:
    tokenizer = TOKENIZERS["char"].for_chat(PLAIN, ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
    talk, lm = [{"role": "user", "content": "abc"}], model_of(tokenizer)
    for seed in range(4):
        answer = lm.chat(talk, 20, temperature=1.0, seed=seed)  # type: ignore[arg-type]
        assert "".join(lm.stream(talk, 20, temperature=1.0, seed=seed)) == answer  # type: ignore[arg-type]
