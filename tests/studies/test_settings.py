"""Settings of a study: what is read from options and files, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from tests.studies.conftest import MakeStudy

from nanogrove.errors import StudyError
from nanogrove.studies.judge import check_study_seeds
from nanogrove.studies.settings import leave_one_out, parse_arm, parse_tune, read_settings

ARMS = [{"name": "a"}, {"name": "b", "overrides": ["optimizer.lr=0.1"]}]


def test_an_arm_is_a_name_and_overrides() -> None:
    assert parse_arm("muon") == {"name": "muon", "overrides": []}
    text = "a:optimizer.betas=[0.9,0.95],optimizer.lr=0.1,preset=my.json,data.sources=a,b.txt"
    expected = ["optimizer.betas=[0.9,0.95]", "optimizer.lr=0.1", "data.sources=a,b.txt"]
    assert parse_arm(text) == {"name": "a", "preset": "my.json", "overrides": expected}


@pytest.mark.parametrize("text", ["", ":a=1", "../a", "a b:x=1", ".hidden", "a:nonsense", "a" * 81])
def test_what_is_not_an_arm_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="--arm"):
        parse_arm(text)


def test_values_to_try_are_listed_by_setting() -> None:
    assert parse_tune(["optimizer.lr=.1,.2", "schedule.warmup=5"]) == {
        "optimizer.lr": [".1", ".2"],
        "schedule.warmup": ["5"],
    }
    for wrong in ("optimizer.lr", "=3", "a="):
        with pytest.raises(StudyError, match="--tune"):
            parse_tune([wrong])
    with pytest.raises(StudyError, match="given twice"):
        parse_tune(["a=1", "a=2"])


def test_trials_are_a_grid() -> None:
    study = read_settings({"preset": "p", "arms": ARMS, "tune": {"a": [1, 2], "b": ["x", [0.5]]}}, "here")
    assert study.trials == [("a=1", "b=x"), ("a=1", "b=[0.5]"), ("a=2", "b=x"), ("a=2", "b=[0.5]")]
    assert read_settings({"preset": "p", "arms": ARMS}, "here").trials == [()]


def test_leave_one_out_makes_an_arm_of_all_and_one_without_each() -> None:
    arms = leave_one_out(["a.b=1", "c=2"])
    assert arms == [
        {"name": "all", "overrides": ["a.b=1", "c=2"]},
        {"name": "without-a.b", "overrides": ["c=2"]},
        {"name": "without-c", "overrides": ["a.b=1"]},
    ]
    with pytest.raises(StudyError, match="KEY=VALUE"):
        leave_one_out(["model.bias"])
    with pytest.raises(StudyError, match=r"--leave-one-out a\.b is given twice; give each setting once"):
        leave_one_out(["a.b=1", "a.b=2"])


def test_a_cap_beyond_the_test_is_named(study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="cap: 41 seeds: the exact test takes up to 40"):
        check_study_seeds(study(until_decided=True, cap=41))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": ARMS[:1]}, "arms must be 2 or more entries long"),
        ({"preset": 5}, "preset must be text or a JSON object, and 5 was given"),
        ({"arms": [ARMS[0], ARMS[0]]}, "two arms are called a"),
        ({"arms": [{"name": "../x"}, ARMS[0]]}, r"arms\.0\.name must be text of the pattern"),
        ({"arms": [{"name": "x", "seed": 3}, ARMS[0]]}, r"unknown key arms\.0\.seed"),
        ({"equal": "steps"}, "equal must be 'tokens', 'flops', 'time' or 'data'"),
        ({"tune": {"train.steps": [5, 9]}}, "tune sets train.steps, and equal tokens gives every trial the tokens of"),
        ({"seeds": 0}, "seeds must be 1 or more"),
        ({"margin": 0}, "margin must be above 0"),
        ({"margin": float("nan")}, "margin must be a finite number"),
        ({"until_decided": True, "seeds": 30}, "cap 24 is less than the 30 seeds"),
        ({"tune": {"optimizer.lr": []}}, "a setting without values"),
        ({"tune": {"optimizer.lr": [1, 2]}}, "tune sets optimizer.lr, and so does optimizer.lr=0.1"),
        ({"tune": {"a": list(range(100)), "b": list(range(6))}}, "make 1,200 ways to train, and 1,000 is the most"),
        ({"seed": 5}, "unknown key seed; a study has name, preset"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as error:
        read_settings({"preset": "p", "arms": ARMS, **changed}, "study.json")
    assert str(error.value).startswith("study.json: ")
    assert "\n" not in str(error.value)


def test_a_study_is_an_object() -> None:
    with pytest.raises(StudyError, match="not a study"):
        read_settings([1], "study.json")


def test_files_of_presets_are_known_by_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    study = read_settings({"preset": "my.json", "arms": [*ARMS, {"name": "c", "preset": "my.json"}]}, "here")
    assert study.preset == study.arms[2].preset == str(tmp_path / "my.json")
    named = read_settings({"preset": "quickstart", "arms": ARMS}, "here")
    assert named.preset == "quickstart"
