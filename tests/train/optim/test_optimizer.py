"""Optimizers: a population against single models, AdamW and SGD against torch."""

import pytest
import torch

from nanogrove.data.batch import Batch
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import stack, unstack
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.population.breeding import reset_moments
from nanogrove.train.state import TrainState, load_optimizer_tensors, optimizer_tensors

# Adam's eps in float32: at the default one, gradients that are rounding alone move weights at the full rate.
EPS = 0.02
FAMILIES = ({"family": "gpt2"}, {"family": "llama", "n_kv_head": 2}, {"family": "nanochat", "zero_init": False})


def batches(step: int, members: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 31, (members, 6, 13), generator=generator)
    mask = torch.rand(members, 6, 12, generator=generator) > 0.3
    return Batch.uniform(tokens[..., :-1], tokens[..., 1:], mask, torch.zeros(members, 6, dtype=torch.int64))


def member(batch: Batch, p: int) -> Batch:
    return batch.member(p)


def rounding(rate: float, steps: int = 3) -> float:
    """How far apart float32 takes the weights of two runs that differ in the order of their sums, with a margin of 3.

    A weight of about 1 is rounded three times a step, by half of ε, in each of two runs. A gradient of these models is
    off by at most .4 ε, measured against float64, and AdamW moves a weight by at most that over eps times the rate.
    """
    weights, gradients = (2 * 3 * steps) ** 0.5 / 2, 0.4 * steps * rate / EPS
    return 3 * torch.finfo(torch.float32).eps * (weights + gradients)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family["family"])
@pytest.mark.parametrize(
    ("dtype", "eps", "tolerance"), [(torch.float32, EPS, rounding(rate=0.01)), (torch.float64, 1e-8, 1e-9)]
)
def test_three_steps_of_four_stacked_members_equal_four_single_models(
    family: dict, name: str, dtype: torch.dtype, eps: float, tolerance: float
) -> None:
    config = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=4, n_embd=32, **family)
    optimizer = OptimizerConfig(name=name, lr=0.01, eps=eps)
    plan = Plan(seed=0, steps=3, lr_factor=lambda step: 1.0, clip=0.5, accumulation=2)
    singles = [GPT(config).initialize(seed).to(dtype) for seed in range(4)]
    together = GPT(config, population=4).to(dtype)
    together.load_state_dict(stack([single.state_dict() for single in singles]))
    state = TrainState(together, make_optimizer(together, optimizer, dtype))
    stacked_events = list(fit(state, batches, next_token, plan))
    for p, single in enumerate(singles):
        alone = TrainState(single, make_optimizer(single, optimizer, dtype))
        events = list(fit(alone, lambda step, p=p: member(batches(step), p), next_token, plan))
        for stacked, event in zip(stacked_events, events, strict=True):
            assert stacked.values["loss"][p] == pytest.approx(event.values["loss"], abs=tolerance)
            assert stacked.values["grad_norm"][p] == pytest.approx(event.values["grad_norm"], abs=tolerance)
        for key, parameter in single.named_parameters():
            assert (together.get_parameter(key)[p] - parameter).abs().max() <= tolerance, key


def test_adamw_decays_matrices_and_tables_but_no_vectors() -> None:
    model = GPT(ModelConfig(vocab_size=31, n_layer=1, n_embd=16, n_head=2), population=2).initialize(0, 1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, OptimizerConfig(weight_decay=0.1)).groups
    decayed = {names[id(p)] for group in groups if group.weight_decay for p in group.parameters}
    assert decayed == {
        "embed.weight",
        "position.weight",
        *(f"blocks.0.{name}.weight" for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")),
    }


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_moments_survive_saving_by_name(name: str) -> None:
    config = ModelConfig(vocab_size=31, block_size=12, n_layer=1, n_head=2, n_embd=16)
    plan = Plan(seed=0, steps=4, lr_factor=lambda step: 1.0)

    def run(stops: list[int]) -> GPT:
        model = GPT(config).initialize(0)
        state = TrainState(model, make_optimizer(model, OptimizerConfig(name=name)))
        for stop in stops:
            limited = Plan(seed=0, steps=stop, lr_factor=plan.lr_factor)
            for _ in fit(state, lambda step: member(batches(step), 0), next_token, limited):
                pass
            moments = {key: value.clone() for key, value in optimizer_tensors(state).items()}
            state.optimizer = make_optimizer(model, OptimizerConfig(name=name))
            load_optimizer_tensors(state, moments)
        return model

    straight, interrupted = run([4]), run([2, 4])
    for before, after in zip(straight.parameters(), interrupted.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_ten_steps_equal_those_of_torch(name: str) -> None:
    config = ModelConfig(vocab_size=31, block_size=12, n_layer=1, n_head=2, n_embd=16, tie_embeddings=False)
    ours, theirs = GPT(config).initialize(0), GPT(config).initialize(0)
    settings = OptimizerConfig(name=name, lr=0.01, weight_decay=0.2)
    optimizer = make_optimizer(ours, settings)
    names = {id(p): n for n, p in ours.named_parameters()}
    groups = [
        {"params": [theirs.get_parameter(names[id(p)]) for p in g.parameters], "weight_decay": g.weight_decay}
        for g in optimizer.groups
    ]
    reference: torch.optim.Optimizer
    if name == "adamw":
        reference = torch.optim.AdamW(groups, lr=0.01, betas=settings.betas, eps=settings.eps, fused=False)
    else:
        reference = torch.optim.SGD(groups, lr=0.01, momentum=settings.momentum, fused=False)
    for step in range(10):
        batch = member(batches(step), 0)
        for model in (ours, theirs):
            next_token(model, batch).total.backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = q.grad.clone()  # one gradient for both, so that only the update is compared
        optimizer.set_rate(1.0)
        optimizer.step()
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize(
    ("dtype", "eps", "tolerance"), [(torch.float32, EPS, rounding(rate=0.02)), (torch.float64, 1e-8, 1e-9)]
)
def test_members_with_rates_of_their_own_equal_single_models_with_those(
    name: str, dtype: torch.dtype, eps: float, tolerance: float
) -> None:
    """Learning rates and weight decays by member."""
    config = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=4, n_embd=32)
    rates, decays = [0.5, 1.0, 2.0, 0.01], [0.0, 0.1, 1.0, 0.3]
    singles = [GPT(config).initialize(seed).to(dtype) for seed in range(4)]
    together = GPT(config, population=4).to(dtype)
    together.load_state_dict(stack([single.state_dict() for single in singles]))
    settings = OptimizerConfig(name=name, lr=0.01, eps=eps)
    state = TrainState(together, make_optimizer(together, settings, dtype))
    state.optimizer.set_decay(torch.tensor(decays, dtype=torch.float64))
    factor = torch.tensor(rates, dtype=torch.float64)
    list(fit(state, batches, next_token, Plan(seed=0, steps=3, lr_factor=lambda step: factor)))
    for p, single in enumerate(singles):
        alone = settings.model_copy(update={"weight_decay": decays[p]})
        optimizer = make_optimizer(single, alone, dtype)
        plan = Plan(seed=0, steps=3, lr_factor=lambda step, p=p: rates[p])
        list(fit(TrainState(single, optimizer), lambda step, p=p: member(batches(step), p), next_token, plan))
        for key, parameter in single.named_parameters():
            assert (together.get_parameter(key)[p] - parameter).abs().max() <= tolerance, key


OWN = (  # of members: two that are alike, and two that share a rate at most
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.02, "adamw_lr": 0.01, "betas": (0.8, 0.99), "momentum": 0.5, "weight_decay": 0.0},
    {"lr": 0.02, "adamw_lr": 0.02, "betas": (0.9, 0.99), "momentum": 0.0, "weight_decay": 0.3},
)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("width", [32, 20])  # rows of the latter do not fill vector registers
def test_members_with_settings_of_their_own_have_the_bits_of_single_models_with_those(name: str, width: int) -> None:
    config = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=width)
    settings = [OptimizerConfig(name=name, **own) for own in OWN]
    singles = [GPT(config).initialize(seed) for seed in range(4)]
    together = GPT(config, population=4)
    together.load_state_dict(stack([single.state_dict() for single in singles]))
    state = TrainState(together, make_optimizer(together, settings[0]))
    state.optimizer.set_members(settings)
    list(fit(state, batches, next_token, Plan(seed=0, steps=3, lr_factor=lambda step: 0.9**step)))
    for p, single in enumerate(singles):
        alone = TrainState(single, make_optimizer(single, settings[p]))
        plan = Plan(seed=0, steps=3, lr_factor=lambda step: 0.9**step)
        list(fit(alone, lambda step, p=p: member(batches(step), p), next_token, plan))
        for key, parameter in single.named_parameters():
            assert torch.equal(together.get_parameter(key)[p], parameter), key
        for key, moment in optimizer_tensors(alone).items():
            if moment.dim():
                assert torch.equal(optimizer_tensors(state)[key][p], moment), key


def test_a_member_whose_moments_are_reset_goes_on_as_with_a_fresh_optimizer() -> None:
    config = ModelConfig(vocab_size=31, block_size=12, n_layer=1, n_head=2, n_embd=16, bias=False)
    model = GPT(config, population=4).initialize(0, 1, 2, 3).double()
    state = TrainState(model, make_optimizer(model, OptimizerConfig(lr=0.01)))
    factor = torch.ones(4, dtype=torch.float64)
    list(fit(state, batches, next_token, Plan(seed=0, steps=5, lr_factor=lambda step: factor)))
    reset_moments(state, [2])
    single = GPT(config).double()
    single.load_state_dict(unstack(model.state_dict(), 2))
    alone = TrainState(single, make_optimizer(single, OptimizerConfig(lr=0.01)), step=5)
    list(fit(state, batches, next_token, Plan(seed=0, steps=9, lr_factor=lambda step: factor)))
    plan = Plan(seed=0, steps=9, lr_factor=lambda step: 1.0)
    list(fit(alone, lambda step: member(batches(step), 2), next_token, plan))
    for key, parameter in single.named_parameters():
        torch.testing.assert_close(model.get_parameter(key)[2], parameter, atol=1e-9, rtol=0)
    assert [float(age) for age in state.optimizer.state[model.embed.weight]["step"]] == [9, 9, 4, 9]


def test_moments_by_member_go_through_a_checkpoint() -> None:
    model = GPT(ModelConfig(vocab_size=31, block_size=12, n_layer=1, n_embd=16, n_head=2), 4).initialize(0, 1, 2, 3)
    state = TrainState(model, make_optimizer(model, OptimizerConfig()))
    list(fit(state, batches, next_token, Plan(seed=0, steps=2, lr_factor=lambda step: torch.ones(4))))
    kept = {key: value.clone() for key, value in optimizer_tensors(state).items()}
    load_optimizer_tensors(state, kept)
    assert all(torch.equal(value, kept[key]) for key, value in optimizer_tensors(state).items())
    assert kept["embed.weight/step"].shape == (4,)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_rates_may_become_those_of_members_and_one_for_all_again(name: str) -> None:
    model = GPT(ModelConfig(vocab_size=31, block_size=12, n_layer=1, n_embd=16, n_head=2), 4).initialize(0, 1, 2, 3)
    state = TrainState(model, make_optimizer(model, OptimizerConfig(name=name)))
    steady = GPT(model.config, 4)
    steady.load_state_dict(model.state_dict())
    other = TrainState(steady, make_optimizer(steady, OptimizerConfig(name=name)))
    for step in range(3):
        rate = torch.ones(4, dtype=torch.float64) if step == 1 else 1.0
        list(fit(state, batches, next_token, Plan(seed=0, steps=step + 1, lr_factor=lambda step, rate=rate: rate)))
    list(fit(other, batches, next_token, Plan(seed=0, steps=3, lr_factor=lambda step: 1.0)))
    for changed, same in zip(model.parameters(), steady.parameters(), strict=True):
        assert torch.equal(changed, same)
