"""Four models trained as one tensor program are those four models, each on a batch of its own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Linear
from nanogrove.model.members import stack, unstack

MEMBERS = 4
SMALL = {"vocab_size": 53, "block_size": 20, "n_layer": 2, "n_embd": 24}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "n_head": 3},
    "gpt2 without biases, untied": {"family": "gpt2", "n_head": 3, "bias": False, "tie_embeddings": False},
    "llama": {"family": "llama", "n_head": 4},
    "llama, grouped heads": {"family": "llama", "n_head": 6, "n_kv_head": 2},
    "llama with biases": {"family": "llama", "n_head": 4, "n_kv_head": 1, "bias": True, "tie_embeddings": True},
    "qwen3": {"family": "llama", "n_head": 4, "n_kv_head": 2, "qk_norm": True},
    "qwen3, wide heads": {"family": "llama", "n_head": 2, "n_kv_head": 1, "head_size": 32, "qk_norm": True},
    "nanochat": {"family": "nanochat", "n_head": 2},
    "nanochat, token shift": {"family": "nanochat", "n_head": 2, "token_shift": True, "zero_init": False},
    "nanochat, grouped heads": {"family": "nanochat", "n_head": 6, "n_kv_head": 3, "zero_init": False},
    "coupled positions": {
        "family": "llama",
        "n_head": 2,
        "position": "coupled",
        "coupled_tokens": tuple(range(30)),
        "coupled_start_tokens": (50,),
        "coupled_offset": 0,
    },
    "no positions": {"family": "llama", "n_head": 2, "position": "none", "norm": "layernorm", "bias": True},
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return ModelConfig(**SMALL, **CONFIGS[request.param])


@torch.no_grad()
def random_model(config: ModelConfig, seed: int) -> GPT:
    """Every parameter drawn, scales and biases too, so that members differ in all of them."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2:
            parameter.copy_(drawn * parameter.shape[1] ** -0.5)
        else:
            parameter.copy_(0.3 * drawn + (1.0 if name.endswith("weight") else 0.0))
    return model


def together(singles: list[GPT]) -> GPT:
    population = GPT(singles[0].config, population=len(singles))
    population.load_state_dict(stack([single.state_dict() for single in singles]))
    return population


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean next-token cross-entropy of `logits [B, T, V]`."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def test_logits_and_gradients_are_those_of_the_members(config: ModelConfig) -> None:
    singles = [random_model(config, seed) for seed in range(MEMBERS)]
    population = together(singles)
    assert config.vocab_size
    text = torch.randint(config.vocab_size, (MEMBERS, 3, 18), generator=torch.Generator().manual_seed(9))
    tokens, targets = text[..., :-1], text[..., 1:]

    logits = population(tokens)
    total = torch.stack([loss(logits[p], targets[p]) for p in range(MEMBERS)]).sum()
    total.backward()
    for p, single in enumerate(singles):
        alone = single(tokens[p])
        assert 0.3 < alone.std() < 5
        # Logits reach 5, where neighbouring float32 numbers lie 5e-7 apart.
        torch.testing.assert_close(logits[p], alone, atol=2e-6 * alone.detach().abs().max().item(), rtol=0)
        loss(alone, targets[p]).backward()
        for (name, ours), theirs in zip(population.named_parameters(), single.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            assert theirs.grad.abs().max() > 1e-4, name
            torch.testing.assert_close(ours.grad[p], theirs.grad, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_members_are_drawn_as_single_models_are(config: ModelConfig) -> None:
    seeds = (5, 3, 8, 5)
    population = GPT(config, population=MEMBERS).initialize(*seeds)
    for p, seed in enumerate(seeds):
        alone, member = GPT(config).initialize(seed).state_dict(), unstack(population.state_dict(), p)
        assert alone.keys() == member.keys()
        assert all(torch.equal(alone[name], member[name]) for name in alone)


def test_unstack_inverts_stack(config: ModelConfig) -> None:
    states = [random_model(config, seed).state_dict() for seed in range(MEMBERS)]
    stacked = stack(states)
    for p, state in enumerate(states):
        member = unstack(stacked, p)
        assert member.keys() == state.keys()
        assert all(torch.equal(member[name], tensor) for name, tensor in state.items())
    unstack(stacked, 0)["embed.weight"].zero_()
    assert torch.equal(stacked["embed.weight"][0], states[0]["embed.weight"])


def test_the_population_axis_does_not_count_as_fan_in() -> None:
    """torch would read `[P, n_out, n_in]` as a convolution's weight and scale by P·n_in or n_out·n_in."""
    config = ModelConfig(family="llama", vocab_size=300, n_embd=96, n_layer=2)
    population = GPT(config, population=MEMBERS).initialize(*range(MEMBERS))
    for name, module in population.named_modules():
        if isinstance(module, Linear):
            expected = 0.02 / (2 * config.n_layer) ** 0.5 if module.residual else 0.02
            deviations = module.weight.detach().flatten(1).std(dim=1)
            assert deviations.shape == (MEMBERS,)
            torch.testing.assert_close(deviations, torch.full((MEMBERS,), expected), rtol=0.03, atol=0, msg=name)


def test_a_wrong_number_of_seeds_is_refused() -> None:
    config = ModelConfig(**SMALL, n_head=2)
    with pytest.raises(ValueError, match="4 members need 4 seeds, and 3 were given"):
        GPT(config, population=MEMBERS).initialize(1, 2, 3)
    with pytest.raises(ValueError, match="1 members need 1 seeds, and 0 were given"):
        GPT(config).initialize()
