"""A study from its settings to its findings, in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.studies.conftest import MakeStudy, outcome, run

from nanogrove.config.overrides import resolve
from nanogrove.errors import StudyError
from nanogrove.record.events import read_events
from nanogrove.runs.train import train
from nanogrove.studies.compare import Options, Update, compare, train_index
from nanogrove.studies.folder import read_plan
from nanogrove.studies.judge import lines


def test_arms_are_trained_over_paired_seeds_and_judged(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    updates, findings = outcome(compare(study(), tmp_path / "s", Options("here")))
    (verdict,) = findings.verdicts
    assert (verdict.arm, verdict.against, verdict.outcome, verdict.pairs) == ("fast", "slow", "better", 6)
    assert verdict.p == 2 / 2**6
    assert len(here) == len(findings.results) == 12
    assert here[:3] == ["arm slow, seed 0", "arm fast, seed 0", "arm slow, seed 1"]
    shares = [update.share for update in updates]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    results = [json.loads(line) for line in (tmp_path / "s" / "results.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["arm"]) for line in results[:3]] == [(0, "fast"), (0, "slow"), (1, "fast")]


def test_a_run_of_a_study_is_the_run_alone(finished: Path, tmp_path: Path) -> None:
    plan = read_plan(finished)
    assert plan is not None
    values = {**plan.arms[1].preset, "seed": 3, "name": "fast-3"}
    alone = list(train(resolve(values), tmp_path / "alone", report=False))
    events = read_events(finished / "runs" / "fast" / "seed-3" / "events.jsonl")
    kinds = ("step", "eval", "end")
    assert [(e.kind, e.values) for e in events if e.kind in kinds] == [
        (e.kind, e.values) for e in alone if e.kind in kinds
    ]


def test_more_seeds_and_arms_train_only_what_is_missing(study: MakeStudy, finished: Path, here: list[str]) -> None:
    before = read_plan(finished)
    run(study(seeds=7), finished)
    assert here == []
    asked = study()
    arms = [*(arm.model_dump() for arm in asked.arms), {"name": "faster", "overrides": ["optimizer.lr=0.01"]}]
    findings = run(study(seeds=8, arms=arms), finished)
    added = [f"arm faster, seed {seed}" for seed in range(8)]
    assert sorted(here) == sorted(["arm slow, seed 7", "arm fast, seed 7", *added])
    assert [verdict.pairs for verdict in findings.verdicts] == [8, 8]
    assert "2 looks in all, so the chance that any verdict is wrong is up to 0.1" in " ".join(lines(findings))
    after = read_plan(finished)
    assert before is not None
    assert after is not None
    assert after.arms[:2] == before.arms


def test_a_figure_that_is_true_is_none(study: MakeStudy, finished: Path) -> None:
    record = finished / "runs" / "fast" / "seed-3" / "events.jsonl"
    *lines, end = record.read_text().splitlines()
    record.write_text("\n".join([*lines, json.dumps({**json.loads(end), "loss": True})]) + "\n")
    (finished / "results.jsonl").unlink()
    with pytest.raises(StudyError, match=r"seed-3/events\.jsonl: damaged, its end has no loss"):
        run(study(seeds=7), finished)


@pytest.mark.slow
def test_arms_that_are_added_are_tuned_too(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    arms = [{"name": "plain"}, {"name": "momentum", "overrides": ["optimizer.momentum=0.5"]}]
    settings = {"overrides": ["optimizer.name=sgd"], "tune": {"optimizer.lr": [1e-6, 0.5]}, "seeds": 6}
    run(study(arms=arms, **settings), tmp_path)
    here.clear()
    more = [*arms, {"name": "decay", "overrides": ["optimizer.weight_decay=0.5"]}]
    findings = run(study(arms=more, **{**settings, "seeds": 7}), tmp_path)
    assert findings.plan.chosen == {"plain": 1, "momentum": 1, "decay": 1}
    assert [label for label in here if "trial" in label] == [f"arm decay, trial {n}, seed {2**40}" for n in (0, 1)]


def test_results_are_made_anew_from_run_folders(study: MakeStudy, finished: Path, here: list[str]) -> None:
    before = (finished / "results.jsonl").read_text()
    (finished / "results.jsonl").unlink()
    assert run(study(seeds=7), finished).verdicts[0].outcome == "better"
    assert (finished / "results.jsonl").read_text() == before
    assert here == []


def test_results_outlive_run_folders(study: MakeStudy, finished: Path, here: list[str]) -> None:
    shutil.rmtree(finished / "runs" / "fast")
    assert run(study(seeds=7), finished).verdicts[0].pairs == 7
    assert here == []


@pytest.mark.parametrize("damage", ["cut", "foreign", "damaged", "twice", "without the measure"])
def test_results_that_no_run_left_are_refused(study: MakeStudy, finished: Path, damage: str) -> None:
    path = finished / "results.jsonl"
    text = path.read_text()
    changed = {
        "cut": text[:-10],
        "foreign": text.replace('"arm":"fast"', '"arm":"another"', 1),
        "damaged": text.replace('"steps":4', '"steps":-4', 1),
        "twice": text + text.partition("\n")[0] + "\n",
        "without the measure": text.replace('"loss"', '"lozz"', 1),
    }
    path.write_text(changed[damage])
    with pytest.raises(StudyError, match=r"results\.jsonl: line \d+ .*; delete the file, and it is made anew"):
        run(study(seeds=7), finished)
    assert path.read_text() == changed[damage]
    path.unlink()
    assert run(study(seeds=7), finished).verdicts


SLOW = {"name": "slow", "overrides": ["optimizer.lr=0.0001"]}
CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"seeds": 6}, "began with 7 seeds; ask for as many or more"),
    ({"equal": "flops"}, 'began with equal "tokens", and here it is "flops"'),
    ({"level": 0.1}, "began with level 0.05"),
    ({"margin": 0.1}, "began with margin null"),
    ({"until_decided": True, "cap": 30}, "began with until_decided false"),
    ({"arms": [{"name": "fast"}, SLOW]}, "arm slow is not as the study began"),
    ({"arms": [SLOW, {"name": "fast", "overrides": ["seed=1"]}]}, "arm fast is not as the study began"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_a_study_that_changed_after_it_began_is_refused(
    study: MakeStudy, finished: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        run(study(**{"seeds": 7, **change}), finished)


def test_a_preset_that_changed_after_a_study_began_is_refused(study: MakeStudy, tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    preset: dict[str, Any] = study().preset  # type: ignore[assignment]
    path.write_text(json.dumps(preset))
    asked = study(preset=str(path))
    run(asked, tmp_path / "s", train=False)
    path.write_text(json.dumps({**preset, "seed": 5}))
    with pytest.raises(StudyError, match="arm slow began with seed 0, and its preset now has 5"):
        run(asked, tmp_path / "s")


def test_a_study_goes_on_where_presets_have_settings_that_it_did_not_know(study: MakeStudy, tmp_path: Path) -> None:
    run(study(), tmp_path, train=False)
    plan = json.loads((tmp_path / "plan.json").read_text())
    for arm in plan["arms"]:
        del arm["requested"]["model"]["head_size"], arm["requested"]["train"]["init"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert run(study(), tmp_path, train=False).plan.arms[0].requested == plan["arms"][0]["requested"]


def test_each_arm_takes_its_best_trial(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    arms = [{"name": "plain"}, {"name": "momentum", "overrides": ["optimizer.momentum=0.5"]}]
    asked = study(arms=arms, overrides=["optimizer.name=sgd"], tune={"optimizer.lr": [1e-6, 0.5]}, seeds=6)
    findings = run(asked, tmp_path)
    assert findings.plan.chosen == {"plain": 1, "momentum": 1}
    assert findings.plan.split == "test"
    trials = [label for label in here if "trial" in label]
    assert len(trials) == 4
    assert len(here) == 16
    result = findings.results["plain", 0, "", None]
    events = read_events(tmp_path / result.folder / "events.jsonl")
    assert events[-1].values["split"] == "test"
    trained_seeds = {result.seed for result in findings.results.values() if result.trial is None}
    assert not trained_seeds & {result.seed for result in findings.results.values() if result.trial is not None}
    here.clear()
    assert run(asked, tmp_path).verdicts == findings.verdicts
    assert here == []


def test_a_run_that_diverges_has_a_result(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    arms = [{"name": "good"}, {"name": "bad", "overrides": ["optimizer.lr=1e30", "train.clip=null"]}]
    findings = run(study(arms=arms), tmp_path)
    result = findings.results["bad", 0, "", None]
    assert result.diverged is not None
    assert result.diverged.startswith("training diverged at step")
    assert findings.verdicts[0].outcome == "worse"
    here.clear()
    shutil.rmtree(tmp_path / "runs" / "good" / "seed-0")
    run(study(arms=arms), tmp_path)
    assert here == []


@pytest.mark.slow
def test_seeds_are_added_until_all_is_decided(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    findings = run(study(seeds=4, until_decided=True, cap=12), tmp_path)
    assert findings.decided
    assert 6 <= findings.seeds < 12
    assert len(here) == 2 * findings.seeds


@pytest.mark.slow
def test_runs_are_trained_by_index_once_the_study_is_planned(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    with pytest.raises(StudyError, match="plan it first, with --prepare"):
        next(train_index(tmp_path, 0))
    assert run(study(), tmp_path, train=False).verdicts == ()
    for index in range(12):
        updates = list(train_index(tmp_path, index))
        assert updates[-1].share == 1.0
    assert list(train_index(tmp_path, 3)) == [Update(1.0, "arm fast, seed 1: trained already, in runs/fast/seed-1")]
    with pytest.raises(StudyError, match="runs 0 to 11"):
        next(train_index(tmp_path, 12))
    assert run(study(), tmp_path, train=False).verdicts[0].outcome == "better"
    assert here == []


def test_a_study_until_decided_goes_on_by_index(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    asked = study(seeds=4, until_decided=True, cap=12)
    first, _ = outcome(compare(asked, tmp_path, Options("here"), train=False))
    assert first[-1].text == "8 of 8 runs are to be trained: --index 0 to 7"
    for index in range(8):
        list(train_index(tmp_path, index))
    further, findings = outcome(compare(asked, tmp_path, Options("here"), train=False))
    assert further[-1].text == "4 of 12 runs are to be trained: --index 8 to 11"
    assert not findings.decided
    assert here == []


def test_too_few_seeds_are_refused_before_anything_runs(study: MakeStudy, tmp_path: Path, here: list[str]) -> None:
    with pytest.raises(StudyError, match="1 seed could show no difference"):
        run(study(seeds=1), tmp_path / "s")
    assert here == []
    assert not (tmp_path / "s").exists()


def test_runs_of_another_study_are_no_results(study: MakeStudy, finished: Path, here: list[str]) -> None:
    for part in ("study.json", "plan.json"):
        (finished / part).unlink()
    other = study(seeds=7, arms=[SLOW, {"name": "fast", "overrides": ["optimizer.lr=0.02"]}])
    with pytest.raises(StudyError, match=r"has results\.jsonl and no plan\.json; put that back"):
        run(other, finished)
    (finished / "results.jsonl").unlink()
    with pytest.raises(StudyError, match=r"fast/seed-0: holds another run .* optimizer\.lr is .* and 0\.02 here"):
        run(other, finished)
    assert here == []


@pytest.mark.parametrize("event", ['"loss": "x"', '"lozz": 2.5', '"loss": 1e300'])
def test_a_record_without_a_figure_is_no_result(study: MakeStudy, finished: Path, event: str) -> None:
    (finished / "results.jsonl").unlink()
    record = finished / "runs" / "fast" / "seed-0" / "events.jsonl"
    with record.open("a") as file:
        file.write(f'{{"kind": "end", "step": 4, {event}, "time": {{}}}}\n')
    with pytest.raises(StudyError, match=r"seed-0/events\.jsonl: damaged, its end has no loss; delete .*seed-0"):
        run(study(seeds=7), finished)


def test_data_that_changed_after_a_study_began_are_refused(
    study: MakeStudy, tmp_path: Path, text_file: Path, here: list[str]
) -> None:
    data = tmp_path / "text.txt"
    data.write_text(text_file.read_text())
    asked: dict[str, Any] = {"overrides": [f"data.sources={data}"]}
    run(study(**asked), tmp_path / "s", train=False)
    next(train_index(tmp_path / "s", 0))
    before = (tmp_path / "s" / "plan.json").read_text()
    data.write_text(text_file.read_text()[:10_000])
    for changed in (asked, {**asked, "seeds": 7}):
        with pytest.raises(StudyError, match="the data of arm slow have changed since the study began; put them back"):
            run(study(**changed), tmp_path / "s")
    with pytest.raises(StudyError, match="the data of arm slow have changed"):
        list(train_index(tmp_path / "s", 0))
    assert (here, (tmp_path / "s" / "plan.json").read_text()) == ([], before)


def test_an_engine_that_is_none_is_refused_before_anything_is_written(study: MakeStudy, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"engine stackd: must be one of auto, .*; did you mean stacked"):
        run(study(), tmp_path / "s", "stackd")
    assert not (tmp_path / "s").exists()
