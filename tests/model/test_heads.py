"""Heads see nothing ahead of them, begin as they say, and are the same in a population as alone."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads, scale_gradient
from nanogrove.model.members import stack, unstack

ALL = {f"enable_{name}": True for name in ("policy", "value", "dynamics", "span_contrastive", "multi_token")}
SIZES: dict[str, Any] = {"vocab_size": 11, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
CONFIG = AuxiliaryConfig(**ALL, dynamics_rollouts=3, multi_token_count=3, value_horizon=2, span_mask_fraction=0.25)


def random_model_and_heads(family: str = "gpt2", population: int | None = None, **sizes: Any) -> tuple[GPT, Heads]:
    """A model and its heads in float64, no weight of them zero."""
    config = ModelConfig.model_validate({"family": family, **SIZES, **sizes})
    seeds = range(population or 1)
    model = GPT(config, population).initialize(*seeds).double()
    heads = Heads(CONFIG, config, population).initialize(*seeds).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*model.parameters(), *heads.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval(), heads


def predictions(model: GPT, heads: Heads, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each head predicts at each position, `[B, T, …]`; an imagined state stands at the last token it has seen."""
    assert heads.value is not None
    assert heads.policy is not None
    assert heads.query is not None
    hidden = model.hidden(tokens)
    predicted = {"value": heads.value(hidden)[..., None], "query": heads.query(hidden)}
    predicted["policy"] = model.logits(heads.policy(hidden))
    predicted |= {f"ahead {k}": model.logits(head(hidden)) for k, head in enumerate(heads.ahead)}
    for k, state in enumerate(heads.imagine(hidden, model.embed(tokens)), 1):
        later = torch.cat((torch.zeros_like(hidden[..., :k, :]), state), -2)
        predicted |= {f"imagined {k}": model.logits(later), f"latent {k}": heads.latent(later)}
        predicted[f"imagined value {k}"] = heads.value(later)[..., None]
    return predicted


@pytest.mark.parametrize("family", ["gpt2", "nanochat"])
def test_no_head_sees_what_is_ahead(family: str) -> None:
    model, heads = random_model_and_heads(family)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(11, (3, 12), generator=generator)
    before = predictions(model, heads, tokens)
    for t in range(12):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + torch.randint(1, 11, (3, 12 - t), generator=generator)) % 11
        for name, after in predictions(model, heads, changed).items():
            assert torch.allclose(after[:, :t], before[name][:, :t], atol=1e-12, rtol=0), (name, t)
            assert not torch.allclose(after[:, t:], before[name][:, t:]), (name, t)


def test_a_span_is_recognised_by_what_stands_before_it() -> None:
    model, heads = random_model_and_heads()
    tokens = torch.randint(11, (4, 12), generator=torch.Generator().manual_seed(0))
    hidden = model.hidden(tokens).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(heads.span_scores(hidden, 5, 3).square().sum(), hidden)
    touched = gradient.abs().sum((0, 2)) > 0
    assert touched.nonzero().flatten().tolist() == [4], "the key sends no gradient back"
    assert heads.span_scores(hidden, 5, 3).abs().max() <= 1 / 0.07 + 1e-9, "cosines over the temperature"


def test_a_population_is_its_members() -> None:
    model, heads = random_model_and_heads(population=3)
    tokens = torch.randint(11, (3, 2, 12), generator=torch.Generator().manual_seed(0))
    together = predictions(model, heads, tokens)
    for p in range(3):
        one, theirs = GPT(model.config).double(), Heads(CONFIG, model.config).double()
        one.load_state_dict(unstack(model.state_dict(), p))
        theirs.load_state_dict(unstack(heads.state_dict(), p))
        for name, alone in predictions(one.eval(), theirs, tokens[p]).items():
            assert torch.allclose(together[name][p], alone, atol=1e-10), name


def test_a_member_is_drawn_as_it_would_be_alone() -> None:
    config = ModelConfig.model_validate(SIZES)
    alone = [Heads(CONFIG, config).initialize(seed).state_dict() for seed in (4, 9)]
    together = Heads(CONFIG, config, 2).initialize(4, 9).state_dict()
    assert all(torch.equal(together[name], tensor) for name, tensor in stack(alone).items())


def test_heads_begin_by_guessing_as_the_model_does() -> None:
    config = ModelConfig.model_validate(SIZES)
    model, heads = GPT(config).initialize(0).eval(), Heads(CONFIG, config).initialize(0)
    hidden = model.hidden(torch.arange(10)[None])
    assert heads.value is not None
    assert heads.value(hidden).tolist()[0] == pytest.approx([math.log(11)] * 10, abs=0.01)
    for k, state in enumerate(heads.imagine(hidden, model.embed(torch.arange(10)[None])), 1):
        assert torch.allclose(state, hidden[:, :-k], atol=0.1), "imagined states are copies"
    assert torch.allclose(heads.ahead[0](hidden), hidden, atol=0.1)
    assert heads.span_scores(hidden.expand(3, -1, -1), 4, 3).abs().max() == 0, "chance"


def test_each_step_of_dynamics_halves_the_gradient() -> None:
    x = torch.ones(3, requires_grad=True)
    scale_gradient(scale_gradient(x, 0.5), 0.5).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0.25] * 3
    assert scale_gradient(x, 0.5).tolist() == [1.0] * 3


def test_only_what_is_enabled_is_there() -> None:
    config = ModelConfig.model_validate(SIZES)
    for name in ("value", "dynamics", "span_contrastive", "multi_token"):
        heads = Heads(AuxiliaryConfig.model_validate({f"enable_{name}": True}), config)
        parts = {key.partition(".")[0] for key in heads.state_dict()}
        wanted = {"dynamics": {"step", "token", "project", "predict"}, "span_contrastive": {"query", "key"}}
        assert parts == wanted.get(name, {{"multi_token": "ahead"}.get(name, name)})
    assert not AuxiliaryConfig().enabled


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_weight": -0.1}, "value_weight"),
        ({"policy_kl_weight": float("nan")}, "policy_kl_weight"),
        ({"span_mask_fraction": 1.0}, "span_mask_fraction"),
        ({"span_mask_fraction": 0.0}, "span_mask_fraction"),
        ({"span_contrastive_temperature": 0.0}, "span_contrastive_temperature"),
        ({"dynamics_rollouts": 4}, "dynamics_rollouts"),
        ({"multi_token_count": 1}, "multi_token_count"),
        ({"value_discount": 1.5}, "value_discount"),
        ({"enable_policy": True}, "set enable_value and enable_dynamics"),
        ({"enable_vlaue": True}, "enable_vlaue"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AuxiliaryConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "tokens", "message"),
    [
        ({"enable_value": True, "value_horizon": 9}, 8, "value_horizon 9"),
        ({"enable_dynamics": True, "dynamics_rollouts": 3}, 3, "dynamics_rollouts 3"),
        ({"enable_multi_token": True, "multi_token_count": 5}, 4, "multi_token_count 5"),
        ({"enable_span_contrastive": True, "span_mask_fraction": 0.95}, 8, "leaves no token ahead"),
        ({**ALL, "value_horizon": 7}, 8, "value_horizon 7"),
    ],
)
def test_a_head_that_looks_beyond_the_window_is_refused(settings: dict[str, Any], tokens: int, message: str) -> None:
    config = AuxiliaryConfig.model_validate(settings)
    config.refuse(64)
    with pytest.raises(ValueError, match=message):
        config.refuse(tokens)
    AuxiliaryConfig.model_validate({k: v for k, v in settings.items() if not k.startswith("enable")}).refuse(tokens)
