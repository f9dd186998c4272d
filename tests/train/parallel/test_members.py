"""A member of a population is the same model trained alone, bit for bit: weights, moments and losses, in float32.

Settings are drawn at random; `python -m pytest -m slow tests/train/test_member_alone.py` draws 500 of them.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nanogrove.data.batch import Batch
from nanogrove.data.rng import derived_seed
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.parallel.members import difference_from_alone
from nanogrove.train.plan import Plan
from nanogrove.train.population.hyperparameters import set_hyperparameters
from nanogrove.train.state import TrainState, optimizer_tensors

FAMILIES: list[dict[str, Any]] = [
    {"family": "gpt2"},
    {"family": "gpt2", "tie_embeddings": False},
    {"family": "llama"},
    {"family": "llama", "qk_norm": True, "tie_embeddings": True, "head_size": 16},
    {"family": "llama", "position": "none", "norm": "layernorm", "bias": True},
    {"family": "nanochat"},
    {"family": "nanochat", "token_shift": True, "zero_init": False},
]


def drawn(seed: int, steps: int) -> dict[str, Any]:
    """Settings of a run: everything that a member's bits could depend on."""
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4])
    kv_heads = rng.choice([d for d in range(1, heads + 1) if heads % d == 0])
    width = rng.choice([w for w in range(16, 65) if w % (2 * heads) == 0])
    members = round(math.exp(rng.uniform(0, math.log(64))))
    context = rng.randint(8, 24)
    model = {**rng.choice(FAMILIES), "n_embd": width, "n_head": heads, "n_kv_head": kv_heads, "block_size": context}
    model |= {"n_layer": rng.choice([1, 1, 2]), "vocab_size": rng.randint(11, 90), "dropout": rng.choice([0, 0, 0.2])}
    by_member = {
        name: [rng.uniform(low, high) for _ in range(members)]
        for name, low, high in (("lr", 0.001, 0.02), ("weight_decay", 0.0, 0.2), ("dropout", 0.0, 0.3))
        if rng.random() < 0.3
    }
    accumulation = rng.randint(1, 3)
    rows = accumulation * rng.randint(2, 4)  # a micro-batch of one sequence is not promised to be equal
    return {
        "model": model,
        "members": members,
        "member": rng.randrange(members),
        "optimizer": rng.choice(["adamw", "sgd", "muon"]),
        "by_member": by_member,
        "clip": rng.choice([None, 0.05, 0.5]),
        "accumulation": accumulation,
        "rows": rows,
        "tokens": rng.randint(8, context),
        "batch_each": rng.random() < 0.5,
        "steps": steps,
        "seed": seed,
    }


def begun(settings: dict[str, Any], member: int | None) -> tuple[TrainState, Callable[[int], Batch], Plan]:
    """All members, or one alone: the state of step 0, the batches, and the plan."""
    model = ModelConfig(**settings["model"])
    population = settings["members"] if member is None else None
    chosen = range(settings["members"]) if member is None else [member]
    gpt = GPT(model, population).initialize(*(derived_seed(settings["seed"], "member", p) for p in chosen))
    state = TrainState(gpt, make_optimizer(gpt, OptimizerConfig(name=settings["optimizer"], lr=0.01)))
    each = settings["by_member"].items()
    factor = set_hyperparameters(state, {name: values if member is None else values[member] for name, values in each})
    plan = Plan(
        seed=settings["seed"],
        steps=settings["steps"],
        lr_factor=lambda step: factor * (1 - step / 100),
        clip=settings["clip"],
        accumulation=settings["accumulation"],
        first_member=chosen[0],
    )

    def batches(step: int) -> Batch:
        generator = torch.Generator().manual_seed(settings["seed"] + 1000 * step)
        shape = (settings["members"], settings["rows"], settings["tokens"] + 1)
        tokens = torch.randint(settings["model"]["vocab_size"], shape, generator=generator)
        mask = torch.rand(*shape[:-1], shape[-1] - 1, generator=generator) < 0.8
        rows = tokens if settings["batch_each"] else tokens[:1].expand(shape)
        scored = mask if settings["batch_each"] else mask[:1].expand(mask.shape)
        batch = Batch.uniform(rows[..., :-1], rows[..., 1:], scored, torch.zeros(shape[:-1], dtype=torch.int64))
        return batch if member is None else batch.member(member)

    return state, batches, plan


def train(settings: dict[str, Any], member: int | None) -> tuple[TrainState, list[dict[str, Any]]]:
    state, batches, plan = begun(settings, member)
    return state, [event.values for event in fit(state, batches, next_token, plan)]


def differences(settings: dict[str, Any]) -> list[str]:
    """What of a member is not that of the model alone."""
    p = settings["member"]
    together, events = train(settings, None)
    alone, events_alone = train(settings, p)
    weights, moments = unstack(together.model.state_dict(), p), optimizer_tensors(together)
    different = [name for name, tensor in alone.model.state_dict().items() if not torch.equal(tensor, weights[name])]
    for name, moment in optimizer_tensors(alone).items():
        whole = moments[name]
        if not torch.equal(moment, whole[p] if whole.dim() > moment.dim() else whole):
            different.append(name)
    for step, (event, event_alone) in enumerate(zip(events, events_alone, strict=True), start=1):
        different += [f"{name} of step {step}" for name in ("loss", "grad_norm") if event[name][p] != event_alone[name]]
    return different


def is_reported(settings: dict[str, Any]) -> bool:
    """Whether the program says that this matrix library, with so many threads, cannot make the shape equal."""
    state, batches, plan = begun(settings, None)
    return difference_from_alone(state, batches(0), plan) is not None


@pytest.mark.parametrize("seed", range(12))
def test_a_member_is_the_run_alone(seed: int) -> None:
    settings = drawn(seed, steps=4)
    assert differences(settings) == [] or is_reported(settings), settings


def population(**model: Any) -> TrainState:
    config = ModelConfig(**{"vocab_size": 31, "block_size": 12, "n_layer": 1, "n_head": 2, "n_embd": 16, **model})
    gpt = GPT(config, population=3).initialize(0, 1, 2)
    return TrainState(gpt, make_optimizer(gpt, OptimizerConfig()))


def plan_of(**settings: Any) -> Plan:
    return Plan(seed=0, steps=1, lr_factor=lambda step: 1.0, **settings)


TEXT = torch.randint(31, (4, 13), generator=torch.Generator().manual_seed(0))
BATCH = Batch.uniform(TEXT[:, :-1], TEXT[:, 1:], torch.ones(4, 12, dtype=torch.bool), torch.zeros(4, dtype=torch.int64))


def test_a_population_says_where_its_members_are_not_promised_to_be_the_runs_alone() -> None:
    assert difference_from_alone(population(), BATCH, plan_of()) is None
    assert "bfloat16 on cpu" in str(difference_from_alone(population(), BATCH, plan_of(precision="bfloat16")))
    assert "single sequence" in str(difference_from_alone(population(), BATCH, plan_of(accumulation=4)))
    assert "compiled" in str(difference_from_alone(population(), BATCH, plan_of(compile=True)))


def test_a_processor_that_rounds_stacked_products_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b, **out: product(a, b, **out) * (1 + 1e-6 * (len(a) > 1)))
    assert "matrix products" in str(difference_from_alone(population(), BATCH, plan_of()))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "nanochat"])
def test_a_compiled_model_is_one_graph(family: str) -> None:
    model = GPT(ModelConfig(family=family, vocab_size=31, block_size=12, n_layer=2, n_embd=16, n_head=2, dropout=0.1))
    explained = torch._dynamo.explain(model.initialize(0))(TEXT[:, :-1], TEXT[:, 1:])
    assert explained.graph_break_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_five_hundred_members_are_the_runs_alone(threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        every = (drawn(seed, steps=50) for seed in range(500))
        bad = {each["seed"]: what[:3] for each in every if (what := differences(each)) and not is_reported(each)}
    finally:
        torch.set_num_threads(1)
    assert bad == {}
