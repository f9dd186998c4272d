"""The report of a study, drawn from findings that were made by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
from tests.reports.conftest import HOSTILE, Page

from nanogrove.record.events import Event
from nanogrove.reports import page
from nanogrove.studies.judge import Findings, judge
from nanogrove.studies.plan import Plan, PlannedArm
from nanogrove.studies.report import write_report
from nanogrove.studies.results import Key, Result
from nanogrove.studies.settings import read_settings

NOISE = (0.01, -0.02, 0.015, 0.0, -0.01, 0.02, -0.015, 0.005)
MEANS = {"base": 3.0, "good": 2.8, "same": 3.0, "bad": 3.1}
ENDS = ("low", "mean", "high")
Figures = dict[str, list[float | None]]  # arm -> a figure for each seed; None where the run diverged


@pytest.fixture(autouse=True)
def _short_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "packed_plotly", lambda: ("cGFja2Vk", "sha256-digest"))


def figures(arms: dict[str, float]) -> Figures:
    """Eight seeds for each arm, which share half of their noise."""
    spread = lambda mean, number: [mean + NOISE[n] + NOISE[(3 * n + number) % 8] / 3 for n in range(8)]  # noqa: E731
    return {name: spread(mean, number) for number, (name, mean) in enumerate(arms.items())}


def findings(runs: Figures, *, ends: int | None = None, machine: Any = None, **settings: Any) -> Findings:
    """A study of these figures; arms from the number `ends` on have a short and a long end."""
    arms = settings.pop("arms", [{"name": name, "overrides": []} for name in runs])
    given = {"name": "study", "preset": "base.json", "arms": arms, "seeds": 8, **settings}
    study = read_settings(given, "the study")
    tuned = len(study.trials) > 1
    planned, results = [], []
    for number, (arm, values) in enumerate(runs.items()):
        two = ends is not None and number >= ends
        steps = {"steps": 60, "short": 50 if two else 60, "long": 60, "all_steps": 60, "flops": 1e9}
        for trial, overrides in enumerate(study.trials):
            label = {"trial": trial, "overrides": list(overrides)} if tuned else {}
            planned.append(PlannedArm(arm=arm, requested={}, preset={}, **steps, **label))
        for end in ("short", "long") if two else ("",):
            results += [_result(arm, seed, value, end) for seed, value in enumerate(values)]
    plan = Plan(
        study=study.model_dump(),
        measure="loss",
        split="validation",
        machine={"versions": {"torch": "2"}} if machine is None else machine,
        arms=planned,
        chosen=dict.fromkeys(runs, 1) if tuned else {},
    )
    return judge(study, plan, {result.key: result for result in results}, study.seeds)


def _result(arm: str, seed: int, value: float | None, end: Any = "") -> Result:
    folder = "/".join(("runs", arm, "-".join(filter(None, (f"seed-{seed}", end)))))
    known = {"figures": {} if value is None else {"loss": value}, "diverged": None if value is not None else "NaN"}
    return Result(arm=arm, seed=seed, end=end, steps=60, seconds=30.0, folder=folder, **known)


def drawn(study: Path, found_in: Findings, *, floor: float | None = None, records: bool = True) -> Page:
    """The page of findings whose runs have three evaluations each."""
    for result in found_in.results.values() if records else ():
        run = study / result.folder
        run.mkdir(parents=True)
        values = {"split": "validation"} | ({} if floor is None else {"bayes_loss": floor})
        losses = [4.0, 3.5, result.figures.get("loss", math.nan)]
        events = [Event("eval", 20 * n, {**values, "loss": loss, "seen": 640 * n}) for n, loss in enumerate(losses, 1)]
        (run / "events.jsonl").write_text("".join(event.line() for event in events))
    return Page(write_report(study, found_in))


def test_verdicts_come_first_and_the_arm_that_won_is_bold(tmp_path: Path) -> None:
    shown = drawn(tmp_path, findings(figures(MEANS)))
    assert "<b>good</b> is better than base by 0.2" in shown.html
    assert "bad is worse than <b>base</b> by 0.1" in shown.html
    assert "<li>Not shown: same against base" in shown.html
    assert shown.html.index("<b>good</b>") < shown.html.index("4 arms") < shown.html.index("<figure>")
    assert "unfinished" not in shown.text


def test_the_cost_of_the_study_and_its_machine_are_shown(tmp_path: Path) -> None:
    shown = drawn(tmp_path, findings(figures(MEANS)))
    for text in ("runs finished32 of 32", "training time16 min 0 s", "training FLOPs32 G", "Versionstorch2"):
        assert text in shown.text


def test_differences_of_all_arms_are_in_one_figure_and_pairs_in_one_each(tmp_path: Path) -> None:
    values = figures(MEANS)
    study = findings(values)
    forest, *pairs = drawn(tmp_path, study).figures()[:4]
    assert [row["name"] for row in forest["forest"]] == ["good", "same", "bad"]
    for row, verdict, picture in zip(forest["forest"], study.verdicts, pairs, strict=True):
        assert row["mean"] == pytest.approx(verdict.difference, rel=1e-4)
        assert (row["low"], row["high"]) == pytest.approx(verdict.interval, rel=1e-4)
        differences = [one - other for one, other in zip(values[verdict.arm], values["base"], strict=True)]  # type: ignore[operator]
        assert row["points"] == pytest.approx(differences, rel=1e-4, abs=1e-9)
        points, mean = picture["lines"]
        assert (points["style"], points["y"]) == ("points", row["points"])
        assert [mean[key][0] for key in ("low", "y", "high")] == pytest.approx([row[key] for key in ENDS], rel=1e-4)
        assert picture["zero"]


@pytest.mark.parametrize("ends", [0, 1])
def test_both_ends_of_an_arm_are_paired_with_the_same_end_of_the_reference(tmp_path: Path, ends: int) -> None:
    shown = drawn(tmp_path, findings(figures({"base": 3.0, "good": 2.8}), ends=ends, equal="time"))
    forest, pairs, curve = shown.figures()[:3]
    assert len(forest["forest"][0]["points"]) == 16
    assert [line["name"] for line in pairs["lines"]] == ["good short", "good long", "mean, interval"]
    assert [line["name"] for line in curve["lines"]][-2:] == ["good short", "good long"]
    assert "unfinished" not in shown.text


def test_curves_are_titled_apart_and_have_the_best_possible_loss(tmp_path: Path) -> None:
    shown = drawn(tmp_path, findings(figures({"base": 3.0, "good": 2.8})), floor=2.5)
    over_tokens, over_flops, over_time = shown.figures()[2:]
    for end in ("tokens", "FLOPs", "time of training"):
        assert f"Validation loss over {end}" in shown.text
    assert over_tokens["lines"][0]["x"] == [640, 1280, 1920]
    assert over_flops["lines"][0]["x"] == pytest.approx([1e9 / 3, 2e9 / 3, 1e9], rel=1e-4)
    assert over_time["lines"][0]["x"] == [10, 20, 30]
    best = over_tokens["lines"][-1]
    assert (best["name"], best["style"], best["y"]) == ("best possible", "reference", [2.5, 2.5])


def test_at_equal_time_curves_end_at_one_time(tmp_path: Path) -> None:
    study = findings(figures({"base": 3.0, "good": 2.8}), equal="time")
    slower = {key: each.model_copy(update={"seconds": 90.0}) for key, each in study.results.items() if key[0] != "base"}
    over_time = drawn(tmp_path, judge(study.study, study.plan, {**study.results, **slower}, 8)).figures()[4]
    assert [line["x"][-1] for line in over_time["lines"]] == [30, 30]


def test_what_was_tuned_is_shown_with_the_trial_that_each_arm_takes(tmp_path: Path) -> None:
    study = findings(figures({"base": 3.0, "good": 2.8}), tune={"optimizer.lr": [0.1, 0.2]})
    trials: dict[Key, Result] = {
        (arm, 1 << 40, "", number): _result(arm, 1 << 40, 3.0 - number / 10).model_copy(update={"trial": number})
        for arm in MEANS
        for number in (0, 1)
    }
    study = judge(study.study, study.plan, {**study.results, **trials}, 8)
    shown = drawn(tmp_path, study, records=False)
    assert "optimizer.lr=0.13.00003.0000" in shown.text
    assert "optimizer.lr=0.22.9000, taken2.9000, taken" in shown.text
    assert "takes optimizer.lr" not in shown.text


def test_an_unfinished_study_says_so(tmp_path: Path) -> None:
    nothing = drawn(tmp_path, findings({"base": [], "good": []}))
    assert "unfinished" in nothing.text
    assert "runs finished0 of 16" in nothing.text
    assert "No pair of runs is finished yet." in nothing.text
    assert nothing.figures() == []
    some_pairs = drawn(tmp_path, findings({"base": [3.0, 3.1, 3.2], "good": [2.0, 2.1]}), records=False)
    assert "unfinished" in some_pairs.text
    assert "runs finished5 of 16" in some_pairs.text


def test_runs_that_diverged_are_counted_and_have_no_pair(tmp_path: Path) -> None:
    shown = drawn(tmp_path, findings({"base": [3.0] * 8, "good": [2.0, None, *[2.5] * 6]}))
    forest, pairs = shown.figures()[:2]
    assert pairs["lines"][0]["x"] == [0, 2, 3, 4, 5, 6, 7]
    assert len(forest["forest"][0]["points"]) == 7
    assert "goodno changes6081" in shown.text


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_strangers_is_text(tmp_path: Path, text: str) -> None:
    arms = [{"name": "base", "preset": {"name": text}}, {"name": "good", "overrides": [f"a={text}"]}]
    study = findings(
        figures({"base": 3.0, "good": 2.8}),
        machine={text: {text: text}},
        arms=arms,
        preset=f"{text}.json",
        overrides=[f"b={text}"],
        tune={f"k{text}": [text, "x"]},
    )
    strange = {
        key: each.model_copy(update={"diverged": text, "figures": {text: 1.0, "loss": 1.0}})
        for key, each in study.results.items()
    }
    plain = drawn(tmp_path / "plain", findings(figures({"base": 3.0, "good": 2.8})))
    for results in (study.results, strange):
        judged = judge(study.study, study.plan, results, 8)
        shown = drawn(tmp_path / "study", judged, records=results is study.results)
        known = {tag for tag, _ in plain.tags}
        assert {tag for tag, _ in shown.tags} <= known
        assert all(
            name not in ("onerror", "onmouseover", "href", "onload") for _, given in shown.tags for name, _ in given
        )
        assert shown.count("script") == len(shown.figures()) + 2
    assert text.replace("\ud800", "?") in shown.text
