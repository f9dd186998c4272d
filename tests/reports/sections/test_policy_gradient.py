"""The pictures of learning from samples, from a made-up record and from a damaged one."""

from pathlib import Path
from typing import Any

from nanogrove.record.events import Event

HOSTILE = "</script><script>alert(1)</script>"


def step(number: int, **values: Any) -> Event:
    figures = {"loss": 0.1, "tokens": 10 * number, "reward": 0.1 * number, "no_signal": 0.5, "length": 3.0}
    return Event("step", number, {**figures, "entropy": 1.0 / number, "clipped": 0.0, **values})


def scored(number: int, kl: object) -> Event:
    return Event("eval", number, {"split": "validation", "loss": 1.0, "kl": kl, "seen": 10 * number})


def test_figures_of_samples_over_tokens(tmp_path: Path, drawn: Any) -> None:
    base = Event("step", 1, {"loss": 2.0, "tokens": 10})
    text, shown = drawn(tmp_path, [base, step(2, kl=0.1), scored(3, 0.2), step(3, kl=0.3)])
    assert "Policy gradient" in text
    reward = shown["Reward of the samples of a step"]["lines"][0]
    assert (reward["x"], reward["y"]) == ([20, 30], [0.2, 0.3])
    samples, held_out = shown["KL from the reference"]["lines"]
    assert (samples["name"], samples["y"]) == ("on samples", [0.1, 0.3])
    assert (held_out["name"], held_out["x"], held_out["y"]) == ("on held-out texts", [30], [0.2])
    assert {"Groups that teach nothing", "Entropy of samples", "Length of samples"} <= shown.keys()
    assert "Clipped ratios" not in shown, "nothing was clipped"
    _, shown = drawn(tmp_path, [base, step(2, clipped=0.1), step(3)])
    assert shown["Clipped ratios"]["lines"][0]["y"] == [0.1, 0]


def test_members_are_drawn_as_a_band_and_no_other_run_has_the_section(tmp_path: Path, drawn: Any) -> None:
    lists = {"reward": [0.1, 0.5], "no_signal": [0.0, 1.0], "loss": [0.1, 0.2]}
    _, shown = drawn(tmp_path / "members", [step(2, **lists), step(3, **lists)])
    reward = shown["Reward of the samples of a step"]["lines"][0]
    assert (reward["low"], reward["high"]) == ([0.1, 0.1], [0.5, 0.5])
    text, _ = drawn(tmp_path / "other", [Event("step", 1, {"loss": 2.0, "tokens": 10})])
    assert "Policy gradient" not in text


def test_a_damaged_record_is_drawn_as_far_as_it_goes(tmp_path: Path, drawn: Any) -> None:
    bad = {"reward": HOSTILE, "no_signal": None, "entropy": [HOSTILE], "kl": {"a": 1}, "tokens": HOSTILE}
    text, _ = drawn(tmp_path, [step(2), step(3, **bad), scored(3, HOSTILE)])
    assert "alert" not in text
