"""Losses by source and weights that follow them: against the equations, exact under resume, refused where senseless."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event, read_events
from nanogrove.reports.report import write_report
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.objective import next_token
from nanogrove.train.sampling.source_weights import (
    AdaptiveConfig,
    Mixing,
    bandit,
    bounded,
    by_excess,
    by_loss,
    by_progress,
    by_source,
    exploration,
    falls,
    moments,
    reference_losses,
)

HARD, EASY = "abcdefghijklmnop", "z"


@pytest.fixture
def preset(tiny: Any, tmp_path: Path) -> dict[str, Any]:
    """Noise over 16 letters, and one letter again and again."""
    generator = np.random.default_rng(0)
    for name, letters in (("noise", HARD), ("one", EASY)):
        (tmp_path / name).mkdir()
        for n in range(120):
            (tmp_path / name / f"{n}.txt").write_text("".join(generator.choice(list(letters), size=20 + n)))
    made: dict[str, Any] = tiny(
        data={"sources": [str(tmp_path / "noise"), str(tmp_path / "one")], "test": 0.2},
        model={"dropout": 0.0},
        train={"steps": 12, "batch_size": 8},
        method={"name": "pretrain", "adaptive": {"strategy": "loss", "interval": 3 * 8 * 16, "smoothing": 0.0}},
        evaluate={"every": 4},
        save={"every": 5},
        sample={"tokens": 0},
    )
    return made


def run(preset: dict[str, Any], out: Path, *overrides: str) -> list[Event]:
    for _ in train(resolve(preset, overrides), out):
        pass
    return read_events(out / "events.jsonl")


def test_strategies_are_their_equations() -> None:
    weights, loss = np.array([0.5, 0.3, 0.2]), np.array([3.0, 1.0, 2.0])
    assert by_loss(loss) == pytest.approx([1 / 2, 1 / 6, 1 / 3])
    powers = np.array([0.5 * math.exp(0.5), 0.3, 0.2 * math.e])
    assert by_excess(weights, loss, np.array([2.5, 2.0, 1.0])) == pytest.approx(powers / powers.sum())
    fall, error = np.array([0.5, 0.1, -0.3]), np.array([0.1, 0.2, 0.1])
    wanted = np.array([0.4 + 0.4 * 0.5, 0.4 * 0.3, 0.4 * 0.2]) / 0.8
    assert by_progress(fall, error, weights) == pytest.approx(wanted), "a loss that rises, or falls within its error"
    assert [exploration(turn, 3) for turn in (0, 1, 3)] == [1 / 3] * 3
    assert exploration(50, 3) == pytest.approx(math.sqrt(math.log(3) / 150))
    policy = np.exp(exploration(49, 3) * np.array([6.0, 3.0, 10.0]))
    wanted = (1 - 3 * exploration(50, 3)) * policy / policy.sum() + exploration(50, 3)
    assert bandit(np.array([6.0, 3.0, 10.0]), 50) == pytest.approx(wanted)


def test_a_source_that_was_not_seen_is_neither_punished_nor_praised() -> None:
    start = np.array([0.5, 0.3, 0.2])
    assert by_loss(np.array([3.0, math.nan, 1.0])) == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert by_excess(start, np.array([1.0, math.nan, 1.0]), np.ones(3)) == pytest.approx(start)
    none = np.array([math.nan, math.nan, math.nan])
    assert by_progress(none, none, start) == pytest.approx(start)
    seen = by_progress(np.array([0.2, math.nan, 0.0]), np.array([0.1, math.nan, 0.1]), start)
    assert seen == pytest.approx((np.array([0.1, 0, 0]) + 0.2 * start) / 0.3)


def test_falls_are_those_of_a_weighted_fit() -> None:
    """Against numpy's own least squares and covariance; sums of two intervals are those of one."""
    generator = np.random.default_rng(0)
    steps, sums = range(1000, 1040), np.zeros((3, 7))
    shares, losses = generator.uniform(0.1, 1, (40, 3)), generator.normal(3, 0.2, (40, 3))
    losses[:, 0] -= 0.01 * np.arange(40)
    shares[::3, 1] = 0
    for step, share, loss in zip(steps, shares, losses, strict=True):
        sums = sums + moments(step, share * loss, share)
    fall, error = falls(sums)
    for source in range(3):
        seen = shares[:, source] > 0
        line, covariance = np.polyfit(
            np.array(steps)[seen] - 1000.0, losses[seen, source], 1, w=np.sqrt(shares[seen, source]), cov=True
        )
        assert fall[source] == pytest.approx(-line[0], rel=1e-6)
        assert error[source] == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-6)
    few = falls(moments(1, np.array([1.0, 0.0]), np.array([1.0, 0.0])))
    assert few[1][0] == math.inf
    assert np.isnan([few[0][1], few[1][1]]).all()


def progressed(generator: np.random.Generator, slope: float, intervals: int = 60, steps: int = 40) -> np.ndarray:
    """Weights after each interval under learning_progress; the loss on the first of three sources falls by `slope`."""
    start = np.full(3, 1 / 3)
    weights, before, history = start, np.zeros((3, 7)), []
    for interval in range(intervals):
        sums = np.zeros((3, 7))
        for step in range(interval * steps, (interval + 1) * steps):
            loss = generator.normal([4.0 - slope * step, 3.0, 1.0], 0.1)
            sums = sums + moments(step, weights * loss, weights)
        weights = bounded(0.5 * weights + 0.5 * by_progress(*falls(sums + before), start), 0.05, 1.0)
        before = sums
        history.append(weights)
    return np.array(history)


@pytest.mark.slow
def test_noise_moves_no_weight_and_a_loss_that_falls_does() -> None:
    weights = np.concatenate([progressed(np.random.default_rng(seed), 0.0) for seed in range(5)])
    assert weights.std(0).max() < 0.04
    assert weights.mean(0) == pytest.approx([1 / 3] * 3, abs=0.02)
    slowly, fast = (progressed(np.random.default_rng(9), slope)[10:, 0] for slope in (0.002, 0.005))
    assert slowly.min() > 0.5
    assert fast.min() > 0.75, "the surer, the more"


def literally(turns: int, groups: int, alpha: float, draw: Any) -> list[list[float]]:
    """The published algorithm, line by line: π of each turn; `draw(π)` gives (group, loss) of each micro-batch."""
    policies = []
    rewards = [0.0] * groups
    epsilon = 1 / groups
    for t in range(1, turns + 1):
        epsilon, last = min(1 / groups, math.sqrt(math.log(groups) / (groups * t))), epsilon
        total = sum(math.exp(last * reward) for reward in rewards)
        policy = [(1 - groups * epsilon) * math.exp(last * reward) / total + epsilon for reward in rewards]
        policies.append(policy)
        losses = [0.0] * groups
        for group, loss in draw(policy):
            losses[group] += loss
        for group in range(groups):
            if losses[group] != 0:
                rewards[group] = alpha * rewards[group] + (1 - alpha) * losses[group] / policy[group]
    return policies


def played(preset: dict[str, Any], turns: int, rows: int, loss: list[float], **adaptive: Any) -> tuple[list, list]:
    """Weights of each turn of odm, and the sources and losses of each row, from losses with noise around `loss`."""
    preset["train"] |= {"batch_size": rows}
    parts = build(resolve(preset))
    state = parts.new_state()
    config = AdaptiveConfig(strategy="odm", least=0.0, **adaptive)
    mixing = Mixing(state, parts.corpus, config, None)  # type: ignore[arg-type]
    generator, weights, drawn = np.random.default_rng(0), [], []
    for step in range(turns):
        weights.append(mixing.weights.tolist())
        sources = mixing.batch(step).source.numpy()
        losses = generator.normal(np.array(loss)[sources], 0.2)
        drawn.append(list(zip(sources.tolist(), losses.tolist(), strict=True)))
        parts_ = {f"nll {n}": float(losses[sources == n].sum() / len(sources)) for n in range(len(loss))}
        parts_ |= {f"share {n}": float((sources == n).mean()) for n in range(len(loss))}
        state.step = step + 1
        mixing.observe(Event("step", step + 1, parts_))
    assert len(state.method_state["sources"]["phases"]) == 2, "what is over is forgotten"
    return weights, drawn


def test_odm_is_the_published_update(preset: dict) -> None:
    """Every policy of 300 turns, from the rows that were drawn by it and their losses."""
    weights, rows = played(preset, 300, 64, [2.5, 1.5], smoothing=0.8)
    turns = iter(rows)
    wanted = literally(300, 2, 0.8, lambda policy: next(turns))
    for ours, theirs in zip(weights, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert np.ptp(np.array(weights)[:, 0]) > 0.2
    counts = np.array([sum(source == 0 for source, _ in turn) for turn in rows])
    policy = np.array(weights)[:, 0]
    deviation = math.sqrt((64 * policy * (1 - policy)).sum())
    assert abs(counts.sum() - (64 * policy).sum()) < 2 * deviation, "rows come as often as the policy says"


@pytest.mark.slow
def test_equal_losses_come_to_equal_shares_under_odm(preset: dict) -> None:
    preset["data"] |= {"mix_strategy": "weighted", "source_weights": [9, 1]}
    weights, _ = played(preset, 300, 16, [2.0, 2.0], smoothing=0.9)
    assert weights[0] == [0.9, 0.1]
    assert np.mean(np.array(weights)[1:, 0]) == pytest.approx(0.5, abs=0.03)
    assert np.array(weights)[-100:, 0].min() > 0.35


@pytest.mark.parametrize(
    ("weights", "least", "most", "wanted"),
    [
        ([0.5, 0.3, 0.2], 0.0, 1.0, [0.5, 0.3, 0.2]),
        ([0.98, 0.01, 0.01], 0.1, 1.0, [0.8, 0.1, 0.1]),
        ([0.8, 0.15, 0.05], 0.0, 0.6, [0.6, 0.3, 0.1]),
        ([0.9, 0.09, 0.01], 0.2, 0.5, [0.5, 0.3, 0.2]),
        ([1.0, 0.0, 0.0], 0.0, 0.5, [0.5, 0.25, 0.25]),
        ([0.7, 0.2, 0.1], 0.9, 1.0, [1 / 3] * 3),
    ],
)
def test_bounds_hold_and_shares_sum_to_one(weights: list, least: float, most: float, wanted: list) -> None:
    assert bounded(np.array(weights), least, most) == pytest.approx(wanted, abs=1e-6)


def test_the_loss_of_each_source_is_that_of_its_own_tokens(preset: dict) -> None:
    parts = build(resolve(preset))
    batch = parts.corpus.batch(0)
    batch.mask[0, :5] = False
    model = GPT(parts.model_on_data).initialize(0)
    found = by_source(model(batch.tokens, batch.targets), batch, 2)
    assert found.total.equal(next_token(model, batch).total)
    nll = model(batch.tokens, batch.targets).detach()
    for source in (0, 1):
        mine = (batch.source == source)[:, None] & batch.mask
        loss = found.parts[f"nll {source}"] / found.parts[f"share {source}"]
        assert float(loss) == pytest.approx(float(nll[mine].mean()), rel=1e-5)
        assert float(found.parts[f"share {source}"]) == pytest.approx(float(mine.sum() / batch.mask.sum()))


def test_what_is_hard_is_shown_more_and_the_record_says_so(preset: dict, tmp_path: Path) -> None:
    stratum = ("train.batch_size=32", "method.adaptive.interval=4096", "train.steps=48")
    events = run(preset, tmp_path / "run", *stratum, "optimizer.lr=0.02")
    told = [event.values for event in events if event.kind == "sources"]
    assert len(told) == 6
    assert told[0]["share"] == [0.5, 0.5]
    parts = build(resolve(preset))
    sizes = [source.count("train") for source in parts.corpus.sources]  # type: ignore[attr-defined]
    assert told[0]["passes"] == pytest.approx([4096 / 2 / size for size in sizes])
    given = [sum(values["share"][n] for values in told) * 4096 for n in (0, 1)]
    assert told[-1]["passes"] == pytest.approx([tokens / size for tokens, size in zip(given, sizes, strict=True)])
    for earlier, later in pairwise(told):
        assert later["share"] == pytest.approx(earlier["weights"], abs=1 / 256), "what was asked for was drawn"
        total = sum(earlier["loss"])
        bound = bounded(np.array([loss / total for loss in earlier["loss"]]), 0.05, 1.0)
        assert earlier["weights"] == pytest.approx(bound.tolist())
    assert told[-1]["weights"][0] > 0.8
    assert told[-1]["loss"][0] > 2 > 0.7 > told[-1]["loss"][1]
    assert all("nll 0" not in event.values for event in events)
    text = write_report(tmp_path / "run").read_text()
    for caption in ("Training loss by source", "Share of the tokens", "Weights from here on"):
        assert caption in text


@pytest.mark.parametrize("strategy", ["loss", "learning_progress", "odm"])
def test_a_kill_after_any_step_and_a_resume_end_alike(
    strategy: str, preset: dict, tmp_path: Path, resumes_exactly: Any
) -> None:
    preset["method"]["adaptive"]["strategy"] = strategy
    steps = range(1, 12, 1 if strategy == "loss" else 4)
    resumes_exactly(preset, tmp_path, [("step", n) for n in steps] + [("sources", 2)])


def test_micro_batches_change_no_loss_and_no_weight(preset: dict, tmp_path: Path) -> None:
    found = [
        [event.values for event in run(preset, tmp_path / str(n), f"train.accumulation={n}") if event.kind == "sources"]
        for n in (1, 4)
    ]
    for one, four in zip(*found, strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-4)
        assert one["weights"] == pytest.approx(four["weights"], rel=1e-4)


def test_excess_is_over_a_reference_of_the_same_vocabulary(preset: dict, tmp_path: Path) -> None:
    plain = json.loads(json.dumps(preset))
    plain["method"] = {"name": "pretrain"}
    events = run(plain, tmp_path / "reference", "optimizer.lr=0.02", "train.steps=40")
    assert [event.values["share"] for event in events if event.kind == "sources"] == [[0.5, 0.5]] * 10
    preset["method"]["adaptive"] |= {"strategy": "excess_loss", "reference": str(tmp_path / "reference")}
    told = [event.values for event in run(preset, tmp_path / "run") if event.kind == "sources"]
    parts = build(resolve(preset))
    model = GPT(parts.model_on_data).initialize(0)
    held = reference_losses(model, parts.corpus, 10_000)  # type: ignore[arg-type]
    mine = (batch for batch in parts.corpus.eval_batches("validation") if batch.source[0] == 0)
    direct = [float(model(batch.tokens, batch.targets).detach().mean()) for batch in mine]
    assert held[0] == pytest.approx(np.mean(direct), rel=0.02)
    assert told[0]["weights"][1] > 0.5, "noise is as hard for the reference; one letter is still to be learned"
    preset["data"]["tokenizer"] = "byte"
    with pytest.raises(NanogroveError, match="has another vocabulary than the data"):
        run(preset, tmp_path / "no")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"sources": ["python-stdlib"]}}, "give data.sources two or more"),
        ({"data": {"mix_strategy": "sequential"}}, "set data.mix_strategy to round_robin or weighted"),
        ({"method": {"adaptive": {"strategy": "excess_loss"}}}, "excess_loss and a reference belong together"),
        ({"method": {"adaptive": {"reference": "runs/x"}}}, "excess_loss and a reference belong together"),
        ({"method": {"adaptive": {"least": 0.6, "most": 0.5}}}, "least 0.6 is above most 0.5"),
        ({"method": {"adaptive": {"strategy": "luck"}}}, "'loss', 'learning_progress', 'excess_loss' or 'odm'"),
        ({"data": {"source_weights": [1, 2]}}, "source_weights and mix_strategy=weighted belong together"),
        ({"data": {"mix_strategy": "weighted", "source_weights": [1]}}, "1 source_weights for 2 sources"),
        ({"data": {"mix_strategy": "weighted", "source_weights": [0, 0]}}, "source_weights are all 0"),
        ({"data": {"mix_strategy": "weighted", "source_weights": [-1, 2]}}, "data.source_weights"),
        ({"data": {"sources": []}}, "sources is empty"),
    ],
)
def test_mixtures_that_make_no_sense(change: dict, said: str, preset: dict, tmp_path: Path) -> None:
    for section, values in change.items():
        preset[section] |= values
    with pytest.raises(NanogroveError) as error:
        run(preset, tmp_path / "run")
    assert said in str(error.value)
    assert not (tmp_path / "run/preset.json").exists()


@pytest.mark.slow
def test_excess_is_over_what_was_measured_at_the_start(preset: dict, tmp_path: Path) -> None:
    """A reference that goes on training, or is gone, changes nothing for a run that has begun."""
    plain = json.loads(json.dumps(preset))
    plain["method"] = {"name": "pretrain"}
    run(plain, tmp_path / "reference", "optimizer.lr=0.02", "train.steps=40")
    preset["method"]["adaptive"] |= {"strategy": "excess_loss", "reference": str(tmp_path / "reference")}
    whole = run(preset, tmp_path / "whole")
    for event in train(resolve(preset), tmp_path / "cut"):
        if event.kind == "step" and event.step == 7:
            break
    (tmp_path / "reference").rename(tmp_path / "elsewhere")
    for _ in train(resolve(preset), tmp_path / "cut", resume=True):
        pass
    cut = read_events(tmp_path / "cut/events.jsonl")
    assert [e.values for e in cut if e.kind == "sources"] == [e.values for e in whole if e.kind == "sources"]
