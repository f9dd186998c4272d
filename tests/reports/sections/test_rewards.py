"""The pictures of learning from scored texts, from a made-up record and from damaged ones."""

from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.events import Event

HOSTILE = "</script><script>alert(1)</script>"
REWARDS = {"texts": 1200, "effective_sample_size": 300.4, "histogram": {"edges": [0.0, 1.0, 2.0], "counts": [5, 7]}}


def scored(step: int, **values: Any) -> Event:
    return Event("eval", step, {"split": "validation", "loss": 1.0, **values})


def sample(text: str) -> dict[str, Any]:
    return {"prompt": "once", "text": text, "reward": 0.5}


def test_distribution_objective_and_kl(tmp_path: Path, drawn: Any) -> None:
    events = [
        Event("rewards", 10, REWARDS),
        scored(5),
        scored(20, kl=0.3, score=0.8),
        scored(30, kl=0.1, score=0.9),
        scored(40, kl=2.0, score=float("inf"), ended="KL 2.000 exceeds method.kl_cap=1"),
    ]
    text, shown = drawn(tmp_path, events)
    rewards = shown["Rewards of the training texts"]["lines"][0]
    assert (rewards["style"], rewards["x"], rewards["width"], rewards["y"]) == ("bars", [0.5, 1.5], [1, 1], [5, 7])
    against = shown["Objective against KL"]["lines"][0]
    assert (against["x"], against["y"]) == ([0.1, 0.3], [0.9, 0.8])
    assert shown["KL from the reference"]["lines"][0]["x"] == [20, 30, 40]
    assert "effective sample size: 300 of 1,200 texts; training ended: KL 2.000 exceeds" in text


def test_log_probabilities_of_pairs_begin_at_the_reference(tmp_path: Path, drawn: Any) -> None:
    def sides(chosen: float, rejected: float) -> dict[str, float]:
        sums = {"chosen_log_prob": chosen, "rejected_log_prob": rejected}
        return {**sums, **{f"{name}_per_token": value / 10 for name, value in sums.items()}}

    events = [
        Event("rewards", 10, {**REWARDS, **sides(-20.0, -30.0)}),
        scored(15, kl=0.1, score=0.6, **sides(-19.0, -31.0)),
        scored(20, kl=0.3, score=0.5, **sides(-23.5, -60.0)),
    ]
    text, shown = drawn(tmp_path, events)
    chosen, rejected = shown["Log-probability of held-out texts"]["lines"]
    assert (chosen["x"], chosen["y"]) == ([10, 15, 20], [-20, -19, -23.5])
    assert (rejected["name"], rejected["y"]) == ("rejected", [-30, -31, -60])
    assert shown["Log-probability per token"]["lines"][1]["y"] == [-3, -3.1, -6]
    assert (
        "held-out chosen texts went from -20.00 to -23.50 nats per text; chosen texts are less likely than to" in text
    )
    text, _ = drawn(tmp_path, events[:2])
    assert "less likely" not in text


def test_rewards_of_fresh_texts_by_round(tmp_path: Path, drawn: Any) -> None:
    events = [
        Event("reward", 10, {"round": 0, "mean": 0.2, "error": 0.05, "texts": [sample("dull")]}),
        Event("reward", 20, {"round": 1, "mean": 0.6, "error": 0.1, "texts": [sample(f"bright {HOSTILE}")]}),
        Event("reward", 30, {"round": 2, "mean": 0.5, "error": 0.1, "texts": [sample("not kept")]}),
        Event("end", 30, {"best_step": 20}),
        scored(20, kl=0.04, score=-0.6),
    ]
    text, shown = drawn(tmp_path, events)
    assert text.index("dull") < text.index("bright")
    assert "not kept" not in text
    assert HOSTILE not in text
    fresh = shown["Reward of fresh texts, two standard errors"]["lines"][0]
    assert (fresh["x"], fresh["y"]) == ([0, 1, 2], [0.2, 0.6, 0.5])
    assert fresh["high"] == pytest.approx([0.3, 0.8, 0.7])
    assert shown["Mean reward against KL"]["lines"][0]["y"] == [0.6]
    assert "Objective on held-out texts" not in shown


@pytest.mark.parametrize(
    "values",
    [{}, {"texts": HOSTILE}, {"histogram": HOSTILE}, {"histogram": {"edges": [HOSTILE, 1], "counts": [2]}}],
    ids=str,
)
def test_a_damaged_record_makes_a_page(values: dict, tmp_path: Path, drawn: Any) -> None:
    text, _ = drawn(tmp_path, [Event("rewards", 0, values), scored(3, kl=HOSTILE, score=HOSTILE, ended=HOSTILE)])
    assert HOSTILE not in text
    assert "<h2>Rewards</h2>" in text
