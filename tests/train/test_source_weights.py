"""Losses by source and weights that follow them: against the equations, exact under resume, refused where senseless."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogrove import lab
from nanogrove.errors import NanogroveError
from nanogrove.model.gpt import GPT
from nanogrove.parts import build
from nanogrove.preset import resolve
from nanogrove.record.events import Event, read_events
from nanogrove.record.report import write_report
from nanogrove.train.objective import next_token
from nanogrove.train.source_weights import bounded, by_source, propose, reference_losses

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
    for _ in lab.train(resolve(preset, overrides), out):
        pass
    return read_events(out / "events.jsonl")


def test_strategies_are_their_equations() -> None:
    weights, loss, before = np.array([0.5, 0.3, 0.2]), np.array([3.0, 1.0, 2.0]), np.array([3.5, 0.9, 3.0])
    told: dict[str, Any] = {"returns": [1.0, 0.0, 2.0], "updates": 3}
    assert propose("loss", weights, loss, before, None, told) == pytest.approx([1 / 2, 1 / 6, 1 / 3])
    progress = propose("learning_progress", weights, loss, before, None, told)
    assert progress == pytest.approx([1 / 3, 0, 2 / 3]), "where the loss rose there is no progress"
    excess = propose("excess_loss", weights, loss, before, [2.5, 2.0, 1.0], told)
    powers = np.array([0.5 * math.exp(0.5), 0.3, 0.2 * math.e])
    assert excess == pytest.approx(powers / powers.sum())
    odm = propose("odm", weights, loss, before, None, told)
    returns = np.array([1 + 3 / 0.5, 0 + 1 / 0.3, 2 + 2 / 0.2])
    epsilon = min(1 / 3, math.sqrt(math.log(3) / 9))
    policy = np.exp(epsilon * returns) / np.exp(epsilon * returns).sum()
    assert odm == pytest.approx((1 - 3 * epsilon) * policy + epsilon)
    assert told["returns"] == pytest.approx(returns.tolist())


def test_a_source_that_was_not_seen_is_neither_punished_nor_praised() -> None:
    loss = np.array([3.0, math.nan, 1.0])
    told: dict[str, Any] = {"returns": [0.0] * 3, "updates": 1}
    for strategy in ("loss", "learning_progress", "excess_loss", "odm"):
        found = propose(strategy, np.full(3, 1 / 3), loss, loss + 1, [1.0] * 3, told)  # type: ignore[arg-type]
        assert np.isfinite(found).all()
        assert found.sum() == pytest.approx(1)


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
    batch = parts.corpus.batches(0)
    batch.mask[0, :5] = False
    model = GPT(parts.model).initialize(0)
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
def test_a_kill_behind_any_step_and_a_resume_end_alike(
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
    model = GPT(parts.model).initialize(0)
    held = reference_losses(model, parts.corpus, 10_000)  # type: ignore[arg-type]
    mine = (batch for batch in parts.corpus.windows("validation") if batch.source[0] == 0)
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


def test_excess_is_over_what_was_measured_at_the_start(preset: dict, tmp_path: Path) -> None:
    """A reference that goes on training, or is gone, changes nothing for a run that has begun."""
    plain = json.loads(json.dumps(preset))
    plain["method"] = {"name": "pretrain"}
    run(plain, tmp_path / "reference", "optimizer.lr=0.02", "train.steps=40")
    preset["method"]["adaptive"] |= {"strategy": "excess_loss", "reference": str(tmp_path / "reference")}
    whole = run(preset, tmp_path / "whole")
    for event in lab.train(resolve(preset), tmp_path / "cut"):
        if event.kind == "step" and event.step == 7:
            break
    (tmp_path / "reference").rename(tmp_path / "elsewhere")
    for _ in lab.train(resolve(preset), tmp_path / "cut", resume=True):
        pass
    cut = read_events(tmp_path / "cut/events.jsonl")
    assert [e.values for e in cut if e.kind == "sources"] == [e.values for e in whole if e.kind == "sources"]
