"""`LanguageModel`: its options stand once, and each way to generate refuses those that are not its own by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Tiny

import nanogrove
from nanogrove.data.chat.template import PLAIN
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.decoding.sampling import Sampling
from nanogrove.decoding.strategies import STRATEGIES
from nanogrove.errors import CheckpointError, DataError, DivergedError, PresetError
from nanogrove.generation import GenerationOptions
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.record.events import read_events

LETTERS = "abcde"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    tokenizer = character_tokenizer([LETTERS])
    config = ModelConfig(vocab_size=len(LETTERS) + 1, block_size=16, n_layer=1, n_head=1, n_embd=8)
    return LanguageModel(GPT(config).initialize(0), tokenizer)


def equal(texts: list[str]) -> list[float]:
    return [0.0 for _ in texts]


def test_the_options_are_its_own_and_those_of_strategies_and_sampling() -> None:
    own = {"seed", "precision", "calibrated", "stop", "reward", "beta"}
    assert GenerationOptions.__optional_keys__ == own | {*STRATEGIES} | {*Sampling.model_fields}
    assert not GenerationOptions.__required_keys__


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("generate", {"heat": 1}, "heat: not a setting of sampling"),
        ("generate", {"top_k": 0}, "top_k: must be 1 or more, and 0 was given"),
        ("generate", {"reward": equal, "beta": float("nan")}, "beta: must be a finite number, and nan was given"),
        ("generate", {"lookahead": 1, "reward": equal}, "lookahead and a reward do not go together; take one"),
        ("continuations", {"speculative": True}, "speculative: not a setting of sampling"),
        ("continuations", {"lookahead": 2}, "lookahead: not a setting of sampling"),
        ("best_of", {"beta": 2.0, "reward": equal}, "beta: not a setting of sampling"),
        ("best_of", {"speculative": True, "reward": equal}, "speculative: not a setting of sampling"),
    ],
)
def test_an_option_that_is_not_known_or_out_of_range_is_named(
    lm: LanguageModel, method: str, arguments: dict[str, Any], message: str
) -> None:
    texts: tuple[Any, ...] = (2, ["a"]) if method == "best_of" else (["a"],)
    with pytest.raises(PresetError, match=f"^{message}"):
        getattr(lm, method)(*texts, 3, **arguments)


def test_no_prompts_are_no_texts_and_uncalibrated_models_are_refused_where_it_is_asked_for(lm: LanguageModel) -> None:
    assert lm.generate([], 3) == []
    with pytest.raises(CheckpointError, match="no temperature of its own yet"):
        lm.generate("a", 3, calibrated=True)


def test_confidence_is_of_the_tokens_that_generate_writes(lm: LanguageModel) -> None:
    options: dict[str, Any] = {"seed": 3, "temperature": 1.0, "top_k": 3}
    texts = lm.generate(["a", "bc"], 6, **options)
    for prompt, text, part in zip(["a", "bc"], texts, lm.continuations(["a", "bc"], 6, **options), strict=True):
        assert part.text == text
        ids = [lm.tokenizer.end if len(token) > 1 else lm.tokenizer.encode(token)[0] for token in part.tokens]
        read = [*lm.tokenizer.encode(prompt), *ids]
        with torch.no_grad():
            scores = lm.model(torch.tensor([read]))[0].softmax(-1)
        start = len(read) - len(ids)
        wanted = [scores[start - 1 + n, token].item() for n, token in enumerate(ids)]
        assert part.probabilities == pytest.approx(wanted, rel=1e-4)


def cut(text: str, prompt: str, stop: str) -> str:
    """A text that ends before the first `stop` of its continuation."""
    return prompt + text[len(prompt) :].partition(stop)[0]


@pytest.mark.parametrize("options", [{"temperature": 1.0, "seed": 5}, {"temperature": 0}, {"reward": equal, "seed": 2}])
def test_a_text_ends_before_its_stop_text_and_its_neighbours_go_on(lm: LanguageModel, options: dict[str, Any]) -> None:
    prompts = ["a", "bcd", "e"]
    whole = lm.generate(prompts, 12, **options)
    longest = max((text[len(prompt) :] for text, prompt in zip(whole, prompts, strict=True)), key=len)
    stop = longest[1:3]  # two characters, so two tokens
    stopped = lm.generate(prompts, 12, stop=stop, **options)
    assert stopped == [cut(text, prompt, stop) for text, prompt in zip(whole, prompts, strict=True)]
    assert len("".join(stopped)) < len("".join(whole))
    assert lm.generate(prompts, 12, stop=["zz", stop], **options) == stopped, "any of several"


def test_what_follows_a_stop_text_is_not_in_its_confidence(lm: LanguageModel) -> None:
    (whole,) = lm.continuations(["a"], 12, seed=5, temperature=1.0)
    stop = whole.text[3:5]
    assert len(stop) == 2
    (part,) = lm.continuations(["a"], 12, seed=5, temperature=1.0, stop=stop)
    assert part.text == cut(whole.text, "a", stop)
    assert "".join(part.tokens) == part.text[1:] + stop, "the tokens that wrote it are the last"
    assert part.probabilities == whole.probabilities[: len(part.tokens)]


def test_an_empty_stop_text_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(PresetError, match=r"^stop: '.udcff' holds half a character"):
        lm.generate("a", tokens=1, stop="\udcff")
    with pytest.raises(PresetError, match=r"^tokens: must be 10,000,000 or less"):
        lm.generate("a", tokens=10**20)
    with pytest.raises(PresetError, match=r"^stop: an empty text is everywhere"):
        lm.generate("a", 3, stop=["b", ""])


@pytest.mark.parametrize("options", [{"speculative": True}, {"lookahead": 2}], ids=str)
def test_every_strategy_ends_before_a_stop_text(lm: LanguageModel, options: dict[str, Any]) -> None:
    config = AuxiliaryConfig(enable_multi_token=True, enable_value=True, enable_dynamics=True)
    heads = Heads(config, lm.model.config).initialize(1)
    searching, prompts = LanguageModel(lm.model, lm.tokenizer, heads=heads), ["a", "bcd"]
    whole = searching.generate(prompts, 12, temperature=0, **options)
    stop = max((text[len(prompt) :] for text, prompt in zip(whole, prompts, strict=True)), key=len)[1:3]
    stopped = searching.generate(prompts, 12, temperature=0, stop=stop, **options)
    assert stopped == [cut(text, prompt, stop) for text, prompt in zip(whole, prompts, strict=True)]
    assert stopped != whole


def test_logits_that_are_not_finite_are_said_in_place_of_texts() -> None:
    config = ModelConfig(vocab_size=len(LETTERS) + 1, block_size=16, n_layer=1, n_head=1, n_embd=8)
    model = GPT(config).initialize(0)
    model.embed.weight.data.fill_(1e38)
    broken = LanguageModel(model, character_tokenizer([LETTERS]))
    for temperature in (0.8, 0.0):
        with pytest.raises(DivergedError, match="scores of the next token are NaN or infinite, so it writes nothing"):
            broken.generate("a", 3, temperature=temperature)


def test_a_chat_is_answered_by_the_template_that_the_run_keeps(tmp_path: Path, tiny: Tiny, command: Any) -> None:
    """The answer is what follows the prompt, up to the template's end of a message, without special tokens."""
    user, assistant = {"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}
    rows = [{"messages": [{**user, "content": "ab" * (1 + n % 9)}, assistant]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text(f"{PLAIN}\n")  # another text, which is a stranger's
    data = {"type": "chat", "path": str(tmp_path / "rows.jsonl"), "template": str(tmp_path / "chat.jinja")}
    preset = tiny(
        model={"block_size": 32}, optimizer={"name": "muon", "lr": 0.05}, sample={"every": 30, "prompts": ["abab", ""]}
    )
    nanogrove.run({**preset, "data": {**data, "tokenizer": "char"}}, tmp_path / "run")
    (tmp_path / "chat.jinja").unlink()
    lm = nanogrove.load(tmp_path / "run")
    assert (tmp_path / "run/checkpoints/best/chat_template.jinja").read_text() == f"{PLAIN}\n"
    assert lm.chat([{"role": "user", "content": "abab"}], tokens=9, temperature=0) == "cd"
    talk = [user, assistant, {"role": "user", "content": "abab"}]
    assert lm.chat(talk, tokens=1, temperature=0) == "c"  # type: ignore[arg-type]
    samples = [event.values for event in read_events(tmp_path / "run/events.jsonl") if event.kind == "sample"]
    assert samples[-1]["prompt"] == "abab"
    assert samples[-1]["text"].startswith("abab\n\n")
    assert command("generate", tmp_path / "run", "abab", "--chat", "--temperature", 0, "--tokens", 9).out == "cd\n"
    assert (
        "--chat goes without --best-of" in command("generate", "x", "a", "--chat", "--best-of", 2, "--reward", "r").err
    )
    exported = tmp_path / "exported"
    nanogrove.to_transformers(tmp_path / "run", exported)
    assert nanogrove.from_transformers(exported).chat(talk, tokens=1, temperature=0) == "c"  # type: ignore[arg-type]
    ids = json.loads((exported / "generation_config.json").read_text())["eos_token_id"]
    assert [lm.tokenizer.backend.id_to_token(token) for token in ids] == ["<|endoftext|>", "<|end|>"]
    with pytest.raises(DataError, match="roles out of order"):
        lm.chat([assistant])  # type: ignore[list-item]
