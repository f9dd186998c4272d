"""The loop: accumulation, clipping, schedules, weights, divergence."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from nanogrove.data.batch import Batch
from nanogrove.errors import DivergedError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.loop import clip_gradients, fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.optim.schedule import ScheduleConfig, schedule
from nanogrove.train.plan import Plan
from nanogrove.train.precision import Precision
from nanogrove.train.state import TrainState

CONFIG = ModelConfig(vocab_size=31, block_size=12, n_layer=1, n_head=2, n_embd=16)


def uneven(step: int) -> Batch:
    """A batch whose sequences have very different numbers of scored tokens."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 31, (8, 13), generator=generator)
    mask = torch.arange(12) < torch.tensor([12, 1, 2, 12, 3, 0, 1, 9])[:, None]
    return Batch.uniform(tokens[:, :-1], tokens[:, 1:], mask, torch.zeros(8, dtype=torch.int64))


def train(plan: Plan, optimizer: str = "adamw", lr: float = 0.01) -> tuple[GPT, list]:
    """In float64: a key's bias has no gradient but rounding, which Adam would blow up to its full rate."""
    model = GPT(CONFIG).initialize(0).double()
    state = TrainState(model, make_optimizer(model, OptimizerConfig(name=optimizer, lr=lr)))
    return model, list(fit(state, uneven, next_token, plan))


@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_accumulation_counts_tokens_not_micro_batches(accumulation: int) -> None:
    whole, events = train(Plan(seed=0, steps=3, lr_factor=lambda step: 1.0))
    cut, cut_events = train(Plan(seed=0, steps=3, lr_factor=lambda step: 1.0, accumulation=accumulation))
    for a, b in zip(events, cut_events, strict=True):
        assert a.values["loss"] == pytest.approx(b.values["loss"], abs=1e-9)
    for p, q in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-8, rtol=0)


def test_objective_is_the_weighted_sum_over_the_number_of_scored_positions() -> None:
    model, batch = GPT(CONFIG).initialize(0), uneven(0)
    batch.weight[0, 0], batch.weight[0, 1], batch.weight[1, 5] = -2.5, 0.0, 9.0  # of the last nothing is scored
    log_probs = model(batch.tokens).log_softmax(-1).detach()
    expected, count = 0.0, 0
    for b in range(8):
        for t in range(12):
            if batch.mask[b, t]:
                expected -= float(batch.weight[b, t]) * float(log_probs[b, t, batch.targets[b, t]])
                count += 1
    assert count == 40
    assert next_token(model, batch).total.item() == pytest.approx(expected / count, rel=1e-5)


def test_unscored_tokens_have_no_gradient() -> None:
    model, batch = GPT(CONFIG).initialize(0), uneven(0)
    silent = replace(batch, mask=torch.zeros_like(batch.mask))
    next_token(model, silent).total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_clipping_is_by_member() -> None:
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.4]])]
    norms = clip_gradients(gradients, torch.Size([2]), 1.0)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(gradients[0], torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(gradients[1], torch.tensor([[0.0, 0.8], [0.0, 0.4]]))


def test_schedules() -> None:
    cosine = schedule(ScheduleConfig(name="cosine", warmup=10, final=0.1), 110)
    assert [cosine(0), cosine(9), cosine(59), cosine(109)] == pytest.approx([0.1, 1.0, 0.55, 0.1])
    wsd = schedule(ScheduleConfig(name="wsd", warmup=0, decay=0.2, final=0.0), 101)
    assert [wsd(0), wsd(79), wsd(90), wsd(100)] == pytest.approx([1.0, 1.0, 10 / 20.2, 0.0])
    constant = schedule(ScheduleConfig(name="constant", warmup=4), 100)
    assert [constant(n) for n in (0, 3, 50, 99)] == pytest.approx([0.25, 1, 1, 1])
    alone = schedule(ScheduleConfig(name="cosine", final=0.0), 1)
    assert alone(0) == 1, "a run of one step learns something"
    short = schedule(ScheduleConfig(name="wsd", warmup=10), 8)
    assert [short(n) for n in range(8)] == pytest.approx([(n + 1) / 10 for n in range(8)])


GRID = itertools.product(
    ("cosine", "wsd"), (2, 3, 7, 50, 1000), (0, 1, 2, 6, 30), (0.01, 0.2, 0.5, 0.99, 1.0), (0, 0.1, 1), (None, 2, 40)
)


@pytest.mark.slow
def test_every_schedule_is_continuous_falls_and_ends_at_its_last_rate() -> None:
    """No step after the warmup changes the rate by more than the steepest slope there is, or raises it."""
    for name, steps, warmup, decay, final, horizon in GRID:
        config = ScheduleConfig(name=name, warmup=warmup, decay=decay, final=final, steps=horizon)
        factors = [schedule(config, steps)(step) for step in range(steps + 3)]
        last, peak = (horizon or steps) - 1, max(warmup - 1, 0)
        case = (config, steps)
        assert all(0 <= factor <= 1 for factor in factors), case
        assert factors[:warmup] == [(step + 1) / warmup for step in range(min(warmup, steps + 3))], case
        fell = [a - b for a, b in itertools.pairwise(factors[peak:])]
        assert all(difference >= 0 for difference in fell), case
        if last > peak:
            assert factors[min(last, steps + 2)] == final or last > steps + 2, case
            assert factors[last + 1 :] == [final] * len(factors[last + 1 :]), case
            span = last - peak if name == "cosine" else min(decay * (horizon or steps), last - peak)
            steepest = (1 - final) / span * (math.pi / 2 if name == "cosine" else 1)
            assert max(fell, default=0) <= min(steepest, 1 - final) + 1e-12, case
            assert peak >= len(factors) or factors[peak] == 1, case


def test_the_last_update_has_the_last_rate() -> None:
    config = ScheduleConfig(name="wsd", warmup=2, decay=1.0, final=0.25)
    _, events = train(Plan(seed=0, steps=9, lr_factor=schedule(config, 9)), lr=0.01)
    assert events[1].values["lr"] == 0.01
    assert events[-1].values["lr"] == 0.0025


def test_dropout_is_a_function_of_the_step() -> None:
    def losses(start: int) -> list[float]:
        model = GPT(CONFIG.model_copy(update={"dropout": 0.5})).initialize(0)
        optimizer = make_optimizer(model, OptimizerConfig(name="sgd", lr=1e-9))  # weights all but stand still
        state = TrainState(model, optimizer, step=start)
        torch.manual_seed(start)  # whatever was drawn before must not matter
        return [
            e.values["loss"] for e in fit(state, uneven, next_token, Plan(seed=3, steps=6, lr_factor=lambda s: 1.0))
        ]

    assert losses(0)[4:] == pytest.approx(losses(4), abs=1e-6)
    assert len(set(losses(0))) == 6


def test_divergence_stops_before_the_update_and_names_step_and_rate() -> None:
    plan = Plan(seed=0, steps=50, lr_factor=lambda step: 1.0, max_loss=math.log(31) + 5, clip=None)
    with pytest.raises(DivergedError, match=r"at step \d+: loss .*learning rate 1e\+06"):
        train(plan, "sgd", lr=1e6)


def test_a_loss_that_is_no_number_leaves_the_weights_alone() -> None:
    model = GPT(CONFIG).initialize(0)
    before = [p.clone() for p in model.parameters()]

    def poisoned(step: int) -> Batch:
        batch = uneven(step)
        batch.weight[0, 0] = math.nan
        return batch

    state = TrainState(model, make_optimizer(model, OptimizerConfig()))
    with pytest.raises(DivergedError, match="at step 1: loss nan"):
        list(fit(state, poisoned, next_token, Plan(seed=0, steps=2, lr_factor=lambda step: 1.0)))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler still imports it
def test_a_compiled_model_trains_as_the_plain_one() -> None:
    _, plain = train(Plan(seed=0, steps=3, lr_factor=lambda step: 1.0))
    _, compiled = train(Plan(seed=0, steps=3, lr_factor=lambda step: 1.0, compile=True))
    for a, b in zip(plain, compiled, strict=True):
        assert a.values["loss"] == pytest.approx(b.values["loss"], abs=1e-5)


@pytest.mark.parametrize("population", [None, 3])
def test_a_loss_made_in_pieces_is_the_same_with_the_same_gradient(population: int | None, monkeypatch) -> None:
    model = GPT(CONFIG, population).initialize(*range(population or 1)).double()
    batch = uneven(0).expand(population)
    whole = next_token(model, batch).total
    whole.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(
        "nanogrove.model.gpt.MAX_LOGITS_PER_CHUNK", 31 * 7 * (population or 1)
    )  # seven positions a piece
    pieces = next_token(model, batch).total
    pieces.sum().backward()
    torch.testing.assert_close(pieces, whole, atol=1e-12, rtol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-12, rtol=0)


@pytest.mark.parametrize("population", [None, 2])
@pytest.mark.parametrize("family", ["gpt2", "llama", "nanochat"])
def test_every_family_trains_in_bfloat16_near_its_float32_losses(family: str, population: int | None) -> None:
    """Warnings are errors here: a format no kernel is made for would be told, and slow."""
    config = ModelConfig(family=family, qk_norm=True, vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=16)

    def losses(precision: Precision) -> torch.Tensor:
        model = GPT(config, population).initialize(*range(population or 1))
        state = TrainState(model, make_optimizer(model, OptimizerConfig(lr=0.01)))
        plan = Plan(seed=0, steps=5, lr_factor=lambda step: 1.0, precision=precision)
        return torch.tensor([event.values["loss"] for event in fit(state, uneven, next_token, plan)])

    torch.testing.assert_close(losses("bfloat16"), losses("float32"), atol=0.02, rtol=0)
    assert not torch.equal(losses("bfloat16"), losses("float32"))
