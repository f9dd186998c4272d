"""Hyperparameters that follow points: applied from their steps on, also after a resume; what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError
from nanogrove.record.events import read_events
from nanogrove.runs.train import train

FOLLOW = {"lr": [[0, 0.01], [5, 0.02], [9, 0.005]], "dropout": [[0, 0.0], [6, 0.3]], "weight_decay": [[0, 0.2]]}


def rates(out: Path) -> list[float]:
    return [event.values["lr"] for event in read_events(out / "events.jsonl") if event.kind == "step"]


def test_points_hold_from_their_step_on(tiny: Any, tmp_path: Path) -> None:
    made = tiny(method={"name": "pretrain", "follow": FOLLOW}, train={"steps": 12}, schedule={"name": "constant"})
    for _ in train(resolve(made), tmp_path / "run"):
        pass
    assert rates(tmp_path / "run") == pytest.approx([0.01] * 5 + [0.02] * 4 + [0.005] * 3)


def test_a_resume_amid_the_points_ends_alike(tiny: Any, tmp_path: Path, resumes_exactly: Any) -> None:
    made = tiny(method={"name": "pretrain", "follow": FOLLOW}, train={"steps": 12})
    resumes_exactly(made, tmp_path, [("step", 7)])


def test_a_run_from_before_a_setting_was_there_goes_on(tiny: Any, tmp_path: Path) -> None:
    made = tiny(train={"steps": 8})
    for event in train(resolve(made), tmp_path / "run"):
        if event.kind == "step" and event.step == 5:
            break
    stored = json.loads((tmp_path / "run/preset.json").read_text())
    del stored["method"]["follow"]
    (tmp_path / "run/preset.json").write_text(json.dumps(stored))
    for _ in train(resolve(made), tmp_path / "run", resume=True):
        pass
    assert len(rates(tmp_path / "run")) == 8


def test_training_is_smoothed_and_what_is_scored_is_not(tiny: Any, tmp_path: Path) -> None:
    """A model of zeros guesses alike: smoothing changes nothing at first, and is more than the NLL once it learns."""
    events = {}
    for share in (0.0, 0.5):
        made = tiny(
            method={"name": "pretrain", "label_smoothing": share},
            model={"dropout": 0.0, "init_scale": 1e-6},
            train={"steps": 20},
            evaluate={"every": 20},
            optimizer={"lr": 0.01},
            sample={"tokens": 0},
        )
        events[share] = list(train(resolve(made), tmp_path / f"{share}"))
    plain, smoothed = ([e.values["loss"] for e in events[share] if e.kind == "step"] for share in events)
    assert smoothed[0] == pytest.approx(plain[0], abs=1e-3)
    assert smoothed[-1] > plain[-1] + 0.1
    scored = next(event.values["loss"] for event in events[0.5] if event.kind == "eval")
    assert scored < smoothed[-1] - 0.05


def test_smoothing_and_heads_exclude_each_other(tiny: Any) -> None:
    method = {"name": "pretrain", "label_smoothing": 0.1}
    with pytest.raises(NanogroveError, match=r"auxiliary: .* leave enable_… out"):
        resolve(tiny(method=method, auxiliary={"enable_value": True}))


@pytest.mark.parametrize(
    ("follow", "said"),
    [
        ({"lr": [[3, 0.1]]}, "steps that rise from 0"),
        ({"lr": [[0, 0.1], [4, 0.2], [4, 0.3]]}, "steps that rise from 0"),
        ({"lr": []}, "steps that rise from 0"),
        ({"dropout": [[0, 1.0]]}, "follow.dropout reaches 1"),
        ({"lr": [[0, float("inf")]]}, "finite"),
        ({"speed": [[0, 1.0]]}, "method.follow.speed"),
    ],
)
def test_points_that_make_no_sense(follow: dict, said: str, tiny: Any) -> None:
    with pytest.raises(NanogroveError) as error:
        resolve(tiny(method={"name": "pretrain", "follow": follow}))
    assert said in str(error.value)
