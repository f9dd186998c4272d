"""`LanguageModel`: its options stand once, and each way to generate refuses those that are not its own by name."""

from typing import Any

import pytest
import torch

from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.decoding.sampling import Sampling
from nanogrove.decoding.strategies import STRATEGIES
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.language_model import GenerationOptions, LanguageModel
from nanogrove.model.gpt import GPT, ModelConfig

LETTERS = "abcde"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    tokenizer = character_tokenizer([LETTERS])
    config = ModelConfig(vocab_size=len(LETTERS) + 1, block_size=16, n_layer=1, n_head=1, n_embd=8)
    return LanguageModel(GPT(config).initialize(0), tokenizer)


def equal(texts: list[str]) -> list[float]:
    return [0.0 for _ in texts]


def test_the_options_are_its_own_and_those_of_strategies_and_sampling() -> None:
    own = {"seed", "precision", "calibrated", "reward", "beta"}
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
