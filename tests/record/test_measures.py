"""Measures: a new one is one line and is shown wherever figures are; the words of the ones there are; which is best."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogrove.cli.render import show
from nanogrove.config.overrides import resolve
from nanogrove.record import measures
from nanogrove.record.events import Event
from nanogrove.record.measures import CALIBRATION, HEADS, MEASURES, REWARD, Derived, Measure, costs, derived, described
from nanogrove.runs import train as runs

PERPLEXITY = Measure("perplexity", "perplexity", title="Perplexity", derived=Derived(math.exp, ("loss",)))


def test_a_new_measure_is_one_line(
    tiny: Any, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the record, the terminal, `evaluate`, the report and a tracker."""
    monkeypatch.setattr(measures, "MEASURES", (*MEASURES, PERPLEXITY))
    preset = resolve(tiny(track={"trackers": ["tensorboard"]}, sample={"tokens": 0}, train={"steps": 5}))
    show(runs.train(preset, tmp_path / "run"), Console(force_terminal=False, width=500), tmp_path / "run")
    shown = capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    [evaluation], [end] = ([e for e in records if e["kind"] == kind] for kind in ("eval", "end"))
    assert evaluation["perplexity"] == math.exp(evaluation["loss"])
    assert f", perplexity {evaluation['perplexity']:.4f}\n" in shown
    assert f", perplexity {end['perplexity']:.4f} on " in shown
    assert f", perplexity {end['perplexity']:.4f}, on " in command("evaluate", tmp_path / "run").out
    html = (tmp_path / "run" / "report.html").read_text()
    assert f"<dt>perplexity</dt><dd>{end['perplexity']:.4f}</dd>" in html
    assert "<figcaption>Perplexity, lower is better</figcaption>" in html
    board = EventAccumulator(str(tmp_path / "run" / "trackers" / "tensorboard"))
    board.Reload()
    [scalar] = board.Scalars("validation/perplexity")
    assert scalar.value == pytest.approx(evaluation["perplexity"])


def test_derived_figures_are_of_each_member_and_need_all_they_follow_from() -> None:
    assert derived({"loss": math.log(2)}, bytes_per_token=4.0) == {"bits_per_byte": 0.25}
    assert derived({"loss": [math.log(2), math.log(4)]}, bytes_per_token=4.0) == {"bits_per_byte": [0.25, 0.5]}
    assert derived({"loss": 1.0}, bytes_per_token=None) == derived({"loss": 1.0}) == {}


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"loss": 1.5}, "loss 1.5000 nats per token"),
        ({"loss": 1.5, "bits_per_byte": 0.5}, "loss 1.5000 nats per token, 0.5000 bits per byte"),
        (
            {
                "loss": 1.5,
                "bayes_loss": 1.0,
                "excess": 0.5,
                "excess_error": 0.1,
                "accuracy": 0.4,
                "bayes_accuracy": 0.6,
            },
            "loss 1.5000 nats per token, best possible 1.0000, excess 0.5000 ± 0.1000; "
            "accuracy 0.4000, best possible 0.6000",
        ),
        ({"loss": 0.1, "correlation": 0.9}, "loss 0.1000, correlation 0.9000 with the true reward"),
        ({"loss": 0.1, "correlation": None}, "loss 0.1000, correlation none with the true reward"),
        (
            {"loss": 1.0, "chosen_log_prob": -7.654, "rejected_log_prob": -20.0, "kl": 0.1},
            "loss 1.0000 nats per token, log-probability of chosen texts -7.65 and of rejected ones -20.00 nats per "
            "text, KL from the reference 0.1000 nats per token",
        ),
        (
            {"loss": 1.0, "exact_match": 0.5, "exact_match_error": 0.25},
            "loss 1.0000 nats per token, exact match 0.5000 ± 0.2500",
        ),
        (
            {"loss": 1.0, "in_order": 0.9, "in_order_error": 0.1, "margin": 2.0, "margin_error": 0.5, "kl": 0.1},
            "loss 1.0000 nats per token, preference accuracy 0.9000 ± 0.1000, margin 2.0000 ± 0.5000 nats per pair, "
            "KL from the reference 0.1000 nats per token",
        ),
        (
            {"loss": 1.0, "reward": 2.0, "reward_error": 0.5, "reward_before": 1.0, "reward_before_error": 0.25},
            "loss 1.0000 nats per token, reward of samples 2.0000 ± 0.5000, before 1.0000 ± 0.2500",
        ),
        ({"loss": 1.0, "kl": [0.1, 0.2], "positions": [1, 2]}, "loss 1.0000 nats per token"),
        ({"loss": [1.0, 2.0]}, "loss 1.000 2.000 nats per token"),
        ({"loss": [5.0, 1.0, 2.0, 4.0, 3.0]}, "loss 1.000 to 5.000, median 3.000 nats per token"),
        ({"loss": [5.0, 1.0, 2.0, None, 3.0]}, "loss 1.000 to 5.000, median 2.500 nats per token"),
    ],
)
def test_the_words(figures: dict[str, object], words: str) -> None:
    assert described(figures) == words


def test_of_costs_the_lower_is_the_better_whatever_the_measure() -> None:
    loss = MEASURES[0]
    assert (loss.better, REWARD.better) == ("lower", "higher")
    assert loss.cost(2.0) == 2.0
    assert REWARD.cost(2.0) == -2.0
    assert torch.equal(REWARD.cost(torch.tensor([1.0, -3.0])), torch.tensor([-1.0, 3.0]))
    assert costs({"loss": 3.0}) == [3.0]
    assert costs({"loss": 3.0, "score": -1.0}) == [-1.0]
    assert costs({"loss": [3.0, 2.0]}) == [3.0, 2.0]


def test_every_measure_can_be_shown_and_compared() -> None:
    for table in (MEASURES, HEADS, CALIBRATION):
        for measure in table:
            assert measure.label or measure.title
            assert measure.text.count("{}") <= 1
    names = [(measure.name, measure.given, measure.by) for measure in MEASURES]
    assert len(set(names)) == len(names), "of two measures of one name each applies somewhere"


def test_a_round_of_alignment_shows_its_reward_and_the_kl(capsys: pytest.CaptureFixture[str]) -> None:
    reward = {"mean": 0.5, "error": 0.25, "texts": []}
    events = [
        Event("reward", 0, {"round": 0, **reward}),
        Event("reward", 4, {"round": 1, **reward}),
        Event("eval", 4, {"split": "validation", "loss": 1.0, "reward": 0.5, "reward_error": 0.25, "kl": 0.125}),
        Event("a kind of tomorrow", 4, {}),
    ]
    show(events, Console(force_terminal=False, width=200), Path("run"))
    assert capsys.readouterr().out.splitlines() == [
        "before the first round  reward of samples 0.5000 ± 0.2500",
        "step 4  validation loss 1.0000 nats per token, reward of samples 0.5000 ± 0.2500, "
        "KL from the reference 0.1250 nats per token",
    ]
