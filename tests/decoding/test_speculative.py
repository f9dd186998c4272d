"""Speculative decoding writes what plain decoding writes: token for token, and in distribution."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.decoding.loop import decode
from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import Sampler, Sampling
from nanogrove.decoding.speculative import speculative
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads

V, MARK = 7, 0
PROMPTS = [[1, 2, 3], [4], [MARK, 5, 6, 1, 2, MARK, 3], [2, 2]]
FAMILIES: list[dict[str, Any]] = [
    {"family": "gpt2"},
    {"family": "llama"},
    {"family": "nanochat"},
    {"family": "gpt2", "token_shift": True},
    {"family": "llama", "within_documents": True, "document_mark": MARK},
    {"family": "gpt2", "token_shift": True, "within_documents": True, "document_mark": MARK},
    {"position": "coupled", "coupled_tokens": (1, 2, 4, 6), "coupled_start_tokens": (3,)},
]


def random_model_and_heads(count: int = 4, noise: float = 0.3, **settings: Any) -> tuple[GPT, Heads]:
    """A model and its heads in float64, of weights large enough that likeliest tokens change."""
    config = ModelConfig(**{"vocab_size": V, "block_size": 40, "n_layer": 2, "n_head": 2, "n_embd": 16, **settings})
    heads = Heads(AuxiliaryConfig(enable_multi_token=True, multi_token_count=count), config).initialize(1)
    model, generator = GPT(config).initialize(0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*model.parameters(), *heads.parameters()):
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return model.double(), heads.double()


def speculate(
    model: GPT,
    heads: Heads,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    new_tokens: int,
    sampling: Sampling,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Tensor:
    sampler = Sampler(sampling.transforms(), sampling.temperature, generator)
    return decode(speculative(model, heads), tokens, lengths, new_tokens=new_tokens, sampler=sampler, stop=stop)


GREEDY = Sampling(temperature=0)


@pytest.mark.parametrize("sampling", [{}, {"repetition_penalty": 1.5, "no_repeat_ngram": 3}])
@pytest.mark.parametrize("stop", [pytest.param([], marks=pytest.mark.slow), [3]])
@pytest.mark.parametrize("settings", FAMILIES, ids=lambda s: "-".join(k if v is True else str(v) for k, v in s.items()))
def test_greedy_tokens_are_those_of_plain_decoding(settings: dict, stop: list[int], sampling: dict) -> None:
    """Prompts of different lengths, of which rows accept different numbers of drafts and end at different times."""
    model, heads = random_model_and_heads(**settings)
    tokens, lengths = pad(PROMPTS)
    asked = Sampling(temperature=0, **sampling)
    for new in (1, 2, 30):
        plain = generate(model, tokens, lengths, new_tokens=new, transforms=asked.transforms(), greedy=True, stop=stop)
        drafted = speculate(model, heads, tokens, lengths, new_tokens=new, sampling=asked, stop=stop)
        assert torch.equal(drafted, plain), new


@pytest.mark.parametrize("size", [36, 37, 38, 39, 64])
def test_rows_that_end_early_have_room_wherever_the_context_ends(size: int) -> None:
    model, heads = random_model_and_heads(noise=0.2, block_size=size)
    tokens = torch.randint(0, V, (40, 5), generator=torch.Generator().manual_seed(0))
    plain = generate(model, tokens, new_tokens=31, greedy=True)
    assert torch.equal(speculate(model, heads, tokens, new_tokens=31, sampling=GREEDY), plain)


@pytest.mark.parametrize(
    "settings",
    [FAMILIES[0], *(pytest.param(settings, marks=pytest.mark.slow) for settings in FAMILIES[1:4])],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_a_row_by_itself_goes_on_alike_past_a_full_context(settings: dict) -> None:
    model, heads = random_model_and_heads(**settings)
    for prompt in (PROMPTS[0], PROMPTS[-1]):
        tokens, _ = pad([prompt])
        plain = generate(model, tokens, new_tokens=130, greedy=True)
        assert torch.equal(speculate(model, heads, tokens, new_tokens=130, sampling=GREEDY), plain)


def test_calls_are_counted_and_a_head_that_is_always_right_saves_all_it_can() -> None:
    """A model that writes one token for ever, and heads that begin as copies of the next token's prediction."""
    config = ModelConfig(vocab_size=V, block_size=64, n_layer=1, n_head=1, n_embd=8, tie_embeddings=False)
    model = GPT(config).initialize(0)
    heads = Heads(AuxiliaryConfig(enable_multi_token=True, multi_token_count=4), config).initialize(0)
    assert model.head is not None
    with torch.no_grad():
        model.norm.weight.zero_()  # type: ignore[union-attr]
        model.norm.bias.fill_(1.0)  # type: ignore[union-attr]
        model.head.weight.zero_()
        model.head.weight[5] = 1.0
        heads.ahead[0].norm.bias.fill_(1.0)  # type: ignore[union-attr]
        for ahead in heads.ahead:
            ahead.norm.weight.zero_()  # type: ignore[union-attr,operator]
            ahead.norm.bias.fill_(1.0)  # type: ignore[union-attr,operator]
    calls = 0
    read = model.hidden

    def counted(*arguments: Any, **named: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return read(*arguments, **named)

    model.hidden = counted  # type: ignore[method-assign]
    written = speculate(model, heads, torch.tensor([[1, 2]]), new_tokens=41, sampling=GREEDY)
    assert written.tolist() == [[5] * 41]
    assert calls == 1 + 40 // 4, "one for the first token, and then four per call"


def exact_distribution(model: GPT, prompt: list[int], new: int, settings: Sampling) -> dict[tuple[int, ...], float]:
    """The probability of every continuation, by a plain forward of each prefix."""
    probabilities: dict[tuple[int, ...], float] = {}
    for written in itertools.product(range(model.config.vocab_size or 0), repeat=new):
        chance = 1.0
        for position, token in enumerate(written):
            seen = torch.tensor([[*prompt, *written[:position]]])
            scores = model(seen)[:, -1].float()
            for transform in settings.transforms():
                scores = transform(scores, seen, torch.tensor([seen.shape[1]]))
            chance *= scores.softmax(-1)[0, token].item()
        probabilities[written] = chance
    return probabilities


@pytest.mark.parametrize("drafts", ["bad", "good"])
@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param({"temperature": 1.0}, marks=pytest.mark.slow),
        {"temperature": 0.7, "top_k": 3, "repetition_penalty": 1.8},
        {"temperature": 1.3, "top_p": 0.8, "no_repeat_ngram": 2},
    ],
)
def test_sampled_texts_are_distributed_as_the_model_says(sampling: dict, drafts: str) -> None:
    model, heads = random_model_and_heads(3, 0.2, vocab_size=4, family="llama")
    if drafts == "good":
        heads.initialize(0)  # dynamics begin as copies: each draft is the next token's distribution
    prompt, rows, new = [1, 3], 8_000, 3
    with torch.inference_mode():
        wanted = exact_distribution(model, prompt, new, Sampling(**sampling))
    assert math.fsum(wanted.values()) == pytest.approx(1)
    written = speculate(
        model,
        heads.double(),
        torch.tensor([prompt]).expand(rows, -1),
        new_tokens=new,
        sampling=Sampling(**sampling),
        generator=torch.Generator().manual_seed(0),
    )
    counts = Counter(map(tuple, written.tolist()))
    assert all(wanted[text] > 0 for text in counts)
    likely = [text for text, chance in wanted.items() if rows * chance >= 5]
    seen = [counts[text] for text in likely]
    expected = [rows * wanted[text] for text in likely]
    rest = rows - sum(expected)
    if rest > 1:
        seen, expected = [*seen, rows - sum(seen)], [*expected, rest]
    scale = sum(seen) / sum(expected)
    assert len(seen) > 10
    assert chisquare(seen, [e * scale for e in expected]).pvalue > 1e-3


def test_the_language_model_writes_the_same_texts_and_refuses_what_cannot_draft(command: Any, tmp_path: Any) -> None:
    model, heads = random_model_and_heads(vocab_size=6, block_size=32)
    tokenizer = character_tokenizer(["abcde"])
    lm = LanguageModel(model.float(), tokenizer, heads=heads.float())
    greedy: dict[str, Any] = {"temperature": 0, "precision": "float32"}
    prompts = ["abc", "d", "eeab"]
    assert lm.generate(prompts, 12, speculative=True, **greedy) == lm.generate(prompts, 12, **greedy)
    drawn = lm.generate("ab", 12, seed=3, speculative=True)
    assert drawn == lm.generate("ab", 12, seed=3, speculative=True)
    with pytest.raises(PresetError, match="speculative and a reward do not go together; take one"):
        lm.generate("a", 3, speculative=True, reward=lambda texts: [0.0 for _ in texts])
    for other in (None, Heads(AuxiliaryConfig(enable_value=True), model.config)):
        with pytest.raises(CheckpointError, match="no multi-token heads to draft; train one with"):
            LanguageModel(model, tokenizer, heads=other).generate("a", 3, speculative=True)
    message = command("generate", tmp_path, "--speculative", "--confidence").error()
    assert "--speculative goes without --confidence; leave one out" in message
