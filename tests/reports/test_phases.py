"""Phases: each objective has a curve of its own, and what goes on through all of them is marked."""

from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.events import Event
from nanogrove.record.events import phase as phase_event
from nanogrove.record.reading import Run
from nanogrove.reports.phases import phases

HOSTILE = "</script><a href='javascript:alert(1)'>"


def step(n: int, loss: float) -> Event:
    values = {"loss": loss, "lr": 0.1, "grad_norm": loss, "tokens": 100 * n}
    return Event("step", n, values, {"seconds": float(n), "tokens_per_second": 100.0})


def evaluation(n: int, loss: float, **more: Any) -> Event:
    return Event("eval", n, {"split": "validation", "loss": loss, "seen": 100 * n, **more}, {"seconds": float(n)})


def two_phases() -> list[Event]:
    first = [evaluation(1, 3.0), step(1, 3.1), evaluation(2, 2.5), step(2, 2.6)]
    further = phase_event("dpo", 2, "DPO loss", "nats per pair", "score")
    return [*first, further, step(3, 0.7), evaluation(4, 2.8, score=0.6), step(4, 0.5)]


def run_of(events: list[Event]) -> Run:
    kinds: dict[str, list[Event]] = {}
    for event in events:
        kinds.setdefault(event.kind, []).append(event)
    return Run("run", {}, kinds)


def test_a_run_of_one_objective_is_one_phase() -> None:
    [phase] = phases(run_of([evaluation(1, 2.0), step(1, 2.0), step(2, 1.0)]))
    assert (phase.name, phase.objective, phase.unit, phase.held_out) == ("", "loss", "nats per token", "loss")


def test_an_objective_of_its_own_from_the_first_step_on_is_one_phase_too() -> None:
    [phase] = phases(run_of([phase_event("reward model", 0, "square error", "scale squared"), step(1, 2.0)]))
    assert (phase.name, phase.unit) == ("reward model", "scale squared")


def test_steps_and_evaluations_belong_to_the_phase_that_they_are_of() -> None:
    run = run_of(two_phases())
    first, second = phases(run)
    assert (first.name, second.name) == ("base", "dpo")
    assert [[event.step for event in phase.of(run.of("step"))] for phase in (first, second)] == [[1, 2], [3, 4]]
    assert [event.step for event in second.of(run.evaluations())] == [4]


def test_a_phase_without_steps_is_not_drawn() -> None:
    assert len(phases(run_of([step(1, 2.0), phase_event("rounds", 1, "loss")]))) == 1


def test_objectives_are_drawn_apart_and_the_rest_is_marked(tmp_path: Path, drawn: Any) -> None:
    text, shown = drawn(tmp_path / "run", two_phases())
    base, dpo = shown["Base: loss over tokens"], shown["Dpo: DPO loss over tokens"]
    assert (base["y"], dpo["y"]) == ("nats per token", "nats per pair")
    assert [line["y"] for line in base["lines"]] == [[3.1, 2.6], [3.0, 2.5]]
    assert [line["y"] for line in dpo["lines"]] == [[0.7, 0.5], [0.6]], "the same objective on held-out data"
    everywhere = shown["Validation loss, all phases"]
    assert (everywhere["lines"][0]["y"], everywhere["marks"]) == ([3.0, 2.5, 2.8], [200])
    assert shown["Learning rate"]["marks"] == [200]
    assert [line["y"] for line in shown["Gradient norm"]["lines"]] == [[3.1, 2.6], [0.7, 0.5]], "nor is a norm joined"
    assert "drawn apart: base, loss (nats per token); dpo, DPO loss (nats per pair)." in text


def test_a_phase_of_the_same_objective_needs_no_curve_of_all(tmp_path: Path, drawn: Any) -> None:
    events = [step(1, 3.0), phase_event("rounds", 1, "loss on labels"), evaluation(2, 1.5), step(2, 1.0)]
    _, shown = drawn(tmp_path / "run", events)
    assert "Rounds: loss on labels over tokens" in shown
    assert "Validation loss, all phases" not in shown


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": HOSTILE, "objective": HOSTILE, "unit": HOSTILE, "held_out": HOSTILE},
        {"name": [HOSTILE], "objective": 3},
    ],
    ids=["empty", "hostile", "other types"],
)
def test_a_damaged_phase_is_text(values: dict[str, Any], tmp_path: Path, drawn: Any) -> None:
    events = [step(1, 2.0), Event("phase", 1, values), step(2, 1.0), Event("phase", 9, values)]
    text, _ = drawn(tmp_path / "run", events)
    assert "<a " not in text
    assert HOSTILE not in text
