"""Every strategy writes the tokens that are kept in `tests/golden/decoding.json`, and leaves its model as it was.

The golden tokens are of float64 models: those round alike on every CPU, as far as a choice of tokens shows.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogrove.decoding.lookahead import lookahead
from nanogrove.decoding.loop import Strategy, decode
from nanogrove.decoding.plain import plain
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import Sampler, Sampling
from nanogrove.decoding.speculative import speculative
from nanogrove.decoding.strategies import STRATEGIES, strategy_for
from nanogrove.errors import PresetError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads

V, STOP, NEW = 11, 3, 30
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "decoding.json").read_text("utf-8"))
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "llama": {"family": "llama", "n_kv_head": 1},
    "nanochat": {"family": "nanochat"},
    "shift": {"family": "gpt2", "token_shift": True},
    "documents": {"family": "llama", "within_documents": True, "document_mark": 0},
    "both": {
        "family": "nanochat",
        "position": "none",
        "token_shift": True,
        "within_documents": True,
        "document_mark": 0,
    },
}
SAMPLING = {
    "greedy": Sampling(temperature=0),
    "cut": Sampling(temperature=0.7, top_k=4, repetition_penalty=1.5),
}
MAKE: dict[str, Callable[[GPT, Heads], Strategy]] = {
    "plain": lambda model, _: plain(model),
    "speculative": speculative,
    "lookahead": lambda model, heads: lookahead(model, heads, 3),
}
PROMPTS = [[1, 2, 3], [4], [0, 5, 6, 1, 2, 0, 3], [2, 2]]


def make(population: int | None = None, **settings: Any) -> tuple[GPT, Heads]:
    """A model and its heads in float64, of weights large enough that likeliest tokens change."""
    config = ModelConfig(**{"vocab_size": V, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16, **settings})
    auxiliary = AuxiliaryConfig(enable_multi_token=True, multi_token_count=4, enable_value=True, enable_dynamics=True)
    members = range(population or 1)
    model = GPT(config, population).initialize(*members)
    heads = Heads(auxiliary, config, population).initialize(*(1 + member for member in members))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*model.parameters(), *heads.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double(), heads.double()


def tokens_of(strategy: Strategy, prompts: Tensor, lengths: Tensor | None, sampling: str) -> list[str]:
    settings = SAMPLING[sampling]
    sampler = Sampler(settings.transforms(), settings.temperature, torch.Generator().manual_seed(7))
    written = decode(strategy, prompts, lengths, new_tokens=NEW, sampler=sampler, stop=[STOP])
    return [" ".join(map(str, row)) for row in written.flatten(0, -2).tolist()]


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize(
    "family",
    [
        "nanochat",
        "both",
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted({*FAMILIES} - {"nanochat", "both"})),
    ],
)
@pytest.mark.parametrize("name", MAKE)
def test_rows_of_several_lengths_past_the_context(name: str, family: str, sampling: str) -> None:
    strategy, key = MAKE[name](*make(**FAMILIES[family])), {"lookahead": "lookahead 3"}.get(name, name)
    first = tokens_of(strategy, *pad(PROMPTS), sampling)
    assert first == GOLDEN[f"{key}, {family}, {sampling}"]
    assert tokens_of(strategy, *pad(PROMPTS), sampling) == first, "a strategy keeps nothing from a call"


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_population(ragged: bool, sampling: str) -> None:
    model, _ = make(3, family="nanochat")
    prompts = torch.randint(0, V, (3, 2, 5), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([[5, 3], [4, 5], [5, 5]]) if ragged else None
    key = f"population, {'ragged, ' if ragged else ''}{sampling}"
    assert tokens_of(plain(model), prompts, lengths, sampling) == GOLDEN[key]


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("family", ["gpt2", "llama", "nanochat"])
def test_a_memory_takes_rows_length_by_length(family: str, sampling: str) -> None:
    model, _ = make(family=family, memory_tokens=2, memory_segment=8)
    prompts = [[1, 2, 3], [4], [5, 6, 1, 2, 0, 3, 1, 2], [2, 2, 1], [3] * 19, [1, 1, 1]]
    assert tokens_of(plain(model), *pad(prompts), sampling) == GOLDEN[f"memory, {family}, {sampling}"]


@pytest.mark.parametrize("name", MAKE)
def test_models_and_heads_are_in_the_mode_that_they_were_in(name: str) -> None:
    model, heads = make()
    for training in (True, False):
        model.train(training)
        heads.train(training)
        tokens_of(MAKE[name](model, heads), *pad(PROMPTS), "greedy")
        assert model.training is training
        assert heads.training is training


def test_a_strategy_is_chosen_by_its_option_and_by_one_alone() -> None:
    model, heads = make()
    none = dict.fromkeys(STRATEGIES)
    assert strategy_for(model, heads, none, steered=False).modules == (model,)
    for name in STRATEGIES:
        assert strategy_for(model, heads, {**none, name: 2}, steered=False).modules == (model, heads)
        with pytest.raises(PresetError, match=f"{name} and a reward do not go together; take one"):
            strategy_for(model, heads, {**none, name: 2}, steered=True)
    with pytest.raises(PresetError, match=f"{' and '.join(STRATEGIES)} do not go together; take one"):
        strategy_for(model, heads, dict.fromkeys(STRATEGIES, 2), steered=False)
    rolling, _ = make(memory_tokens=2, memory_segment=8)
    for options, steered, name in ((none, True, "a reward"), ({**none, "lookahead": 2}, False, "lookahead")):
        with pytest.raises(PresetError, match=f"{name}: a model with a memory is decoded plainly only"):
            strategy_for(rolling, heads, options, steered)
