"""A budget in minutes: how times become steps, what is timed, that none of it reaches the run, and what is refused."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.errors import PresetError, RunError
from nanogrove.methods import load_method
from nanogrove.record.events import Event, read_events
from nanogrove.record.folder import RunFolder
from nanogrove.runs import estimate, setup
from nanogrove.runs.rehearsal import LEAST_STEPS, Pace, Paces, Rehearsal, pace, rehearse, rounded_up, steps_in
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.synthetic.tasks import find_task
from nanogrove.train.parallel.ranks import Ranks

STEPS = 24


def timed(*seconds: float) -> Iterator[Event]:
    """Step events that took so long, each after an evaluation; more of them than that is a mistake."""
    total = 0.0
    for number, step in enumerate(seconds, 1):
        total += step
        yield Event("eval", number, {}, {"seconds": total})
        yield Event("step", number, {}, {"seconds": total})
    raise AssertionError("the rehearsal went on")


@pytest.mark.parametrize("minutes", [0.01, 1 / 3, 3.0, 600.0])
@pytest.mark.parametrize(("step", "aside"), [(0.01, 0.0), (0.07, 0.4), (0.31, 0.0)])
def test_as_many_steps_as_fit_in_the_minutes(minutes: float, step: float, aside: float) -> None:
    result, seconds = steps_in(minutes, step, aside), 60 * minutes - aside
    assert result * step <= seconds * (1 + 1e-9)
    assert (result + 1) * step >= seconds * (1 - 1e-9)


def test_minutes_that_are_used_up_hold_no_step() -> None:
    assert steps_in(1, 0.5, 60.0) == steps_in(1, 0.5, 99.0) == steps_in(1, 60.1) == 0


def test_the_pace_is_the_lower_quartile_of_all_steps_but_the_first() -> None:
    result = pace(timed(5.0, 0.2, 9.0, 0.1, 0.3, 0.2, 7.0, 7.0), wanted=9.75)
    assert result.step == pytest.approx(0.2)
    assert result.start == pytest.approx(4.8)


def test_a_slow_step_is_timed_twice_and_no_more() -> None:
    assert LEAST_STEPS == 2
    assert pace(timed(1.0, 30.0, 32.0), wanted=2.0).step == pytest.approx(30.0)


def test_ranks_stop_together() -> None:
    class Slower(Ranks):
        def all_reduce_max(self, number: int) -> int:
            asked.append(number)
            return int(len(asked) == 5)

    asked: list[int] = []
    result = pace(timed(1.0, 0.1, 0.1, 0.1, 0.3), wanted=0.3, ranks=Slower(0, 2))
    assert (asked, round(result.step, 6)) == ([0, 0, 0, 1, 1], 0.1), "another rank asked for one more"


@pytest.mark.parametrize(
    ("value", "expected"), [(0.1234, 0.13), (0.12, 0.12), (9.91, 10.0), (123.0, 130.0), (7.0, 7.0)]
)
def test_a_number_to_type_is_not_less(value: float, expected: float) -> None:
    assert rounded_up(value) == expected


# What is timed.

TEXTS = [{"prompt": p, "text": t, "reward": len(t)} for p in "0123456789" for t in ("a", "bc", "def", "ghij")] * 4
PAIRS = [{"prompt": p, "chosen": "ab", "rejected": c} for p in "0123456789" for c in ("cde", "fghi")] * 8


@pytest.fixture
def of_method(tiny: Any, tmp_path: Path) -> Any:
    """The tiny preset of a method with a budget in minutes."""

    def make(name: str, minutes: float = 0.003, **method: Any) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if name in ("offline_rl", "reward_model"):
            path = tmp_path / "scored.jsonl"
            rows, kind = (PAIRS, "preferences") if method.get("algorithm") == "dpo" else (TEXTS, "rewarded")
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            data = {"type": kind, "path": str(path), "prompt": "prompt", "validation": 0.2, "test": 0.2}
        if name in ("self_improve", "evolution_strategies", "policy_gradient"):
            data = {"type": "task", "task": "copy", "base": [1, 3], "held_out": 5}
        preset = tiny(train={"steps": None, "minutes": minutes}, sample={"tokens": 0})
        preset["method"] = {"name": name, **method}
        preset["data"] = data or preset["data"]
        if name == "reward_model":
            preset["model"]["scalar"] = True
        return preset

    return make


ALIGN = {"reward": {"terms": {"moon": 1.0}}, "rounds": 2, "steps_per_round": 2, "texts": 8, "prompt": 3, "tokens": 5}
METHODS: dict[str, dict[str, Any]] = {
    "pretrain": {},
    "offline_rl awr": {"algorithm": "awr", "base_steps": 5},
    "offline_rl dpo": {"algorithm": "dpo", "base_steps": 5},
    "reward_model": {},
    "align": ALIGN,
    "evolution_strategies": {"fitness": "exact_match", "population_size": 4, "generations": 3},
    "self_improve": {"voters": 2, "si_rounds": 2, "si_iter": 2},
    "policy_gradient": {"base_steps": 3, "samples": 2},
}


@pytest.mark.parametrize("case", METHODS)
def test_minutes_become_steps_for_every_method_that_takes_them(case: str, of_method: Any) -> None:
    settings = METHODS[case]
    built = build(resolve(of_method(case.split()[0], 0.02, **settings)))
    train, times = built.preset.train, built.budget
    assert train.minutes is None
    assert train.steps is not None
    config, num_steps = built.preset.method, load_method(built.preset.method.name).num_steps
    assert built.plan.steps == num_steps(config, train.steps)
    assert times["minutes"] == 0.02
    further = times.get("further_steps", 0)
    assert further == num_steps(config, 0)
    seconds = train.steps * times["step_ms"] / 1000 + further * times.get("further_step_ms", 0) / 1000
    assert seconds == pytest.approx(1.2, abs=2 * times["step_ms"] / 1000)
    assert resolve(built.preset.model_dump(mode="json")) == built.preset


def first_steps(preset: dict[str, Any], further: bool, count: int = 2) -> list[Event]:
    """The first steps of a rehearsal."""
    built = build(resolve({**preset, "train": {**preset["train"], "minutes": None, "steps": 3}}))
    plan = replace(built.plan, steps=1 << 40, lr_factor=lambda step: 0.0, schedule=lambda end, start: lambda step: 0.0)
    plan = replace(plan, evaluate_every=1 << 40, evaluate_early=False)
    rehearse = load_method(built.preset.method.name).rehearse
    assert rehearse is not None
    steps = []
    for event in rehearse(built.new_state(), built.corpus, plan, built.preset.method, further):
        assert event.kind in ("step", "rewards", "phase", "note"), "more than steps is rehearsed"
        steps += [event] * (event.kind == "step")
        if len(steps) == count:
            break
    return steps


def test_a_curriculum_is_timed_on_whole_batches(of_method: Any) -> None:
    step = first_steps(of_method("pretrain", curriculum={"start": 0.1}), False)[0]
    assert "share" not in step.values
    assert step.values["tokens"] == 4 * 16


def test_preferences_are_timed_by_their_own_loss_and_their_base_by_imitation(of_method: Any) -> None:
    preset = of_method("offline_rl", algorithm="dpo", base_steps=5)
    preset["model"]["dropout"] = 0.0
    main, base = first_steps(preset, False)[1], first_steps(preset, True)[1]
    assert main.values["loss"] == pytest.approx(math.log(2), abs=1e-6), "the policy is the reference as yet"
    assert base.values["loss"] > 1.5


def test_samples_are_timed_as_such(of_method: Any) -> None:
    preset = of_method("policy_gradient", base_steps=3, samples=2)
    main, base = first_steps(preset, False)[1], first_steps(preset, True)[1]
    assert main.values["no_signal"] <= 1
    assert "no_signal" not in base.values


def test_generations_are_timed_as_such(of_method: Any) -> None:
    preset = of_method("evolution_strategies", population_size=4, generations=1)
    assert "score_spread" in first_steps(preset, True)[1].values
    assert "score_spread" not in first_steps(preset, False)[1].values


@pytest.mark.parametrize(
    ("changes", "hardest"),
    [({"si_rounds": 4}, 5), ({"si_rounds": 4, "to": 4}, 4), ({"si_rounds": 2, "to": 7}, 4), ({"labels": "none"}, 3)],
)
def test_rounds_are_timed_half_way_to_their_hardest_difficulty(of_method: Any, changes: dict, hardest: int) -> None:
    preset = of_method("self_improve", voters=2, **changes)
    task = find_task("copy")
    for further, difficulty in ((False, 3), (True, hardest)):
        step = first_steps(preset, further)[0]
        assert step.values["tokens"] == 4 * task.longest(difficulty), f"{further=}"


def test_a_rehearsal_leaves_the_generators_and_the_corpus_as_they_were(of_method: Any) -> None:
    preset = of_method("pretrain")
    built = build(resolve({**preset, "train": {**preset["train"], "minutes": None, "steps": 5}}))
    before = torch.get_rng_state()
    assert built.new_state().model.dropout.active
    first = built.corpus.batch(3).tokens.clone()
    rehearse(0.003, built.preset.method, built.corpus, built.plan, built.new_state)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(built.corpus.batch(3).tokens, first)


# A run.


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Puts a measurement of `STEPS` steps in place of the real one; the minutes that each one was asked for."""
    calls: list[float] = []

    def instead(minutes: float, *given: Any) -> Rehearsal:
        calls.append(minutes)
        return Rehearsal(STEPS, {"minutes": minutes, "step_ms": 1000 * 60 * minutes / STEPS})

    monkeypatch.setattr(setup, "rehearse", instead)
    return calls


def left(run: Path) -> tuple[list[dict[str, Any]], bytes]:
    """The record less its clock, and the last weights."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    record = [{key: value for key, value in line.items() if key != "time"} for line in lines]
    return record, (run / "checkpoints/current/model.safetensors").read_bytes()


def test_a_run_by_minutes_is_the_run_of_its_steps_bit_for_bit(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here with a real rehearsal, of a model with dropout, by a clock on which each step takes 1/256 of a second."""
    ticks = itertools.count()
    monkeypatch.setattr("nanogrove.train.loop.time", SimpleNamespace(perf_counter=lambda: next(ticks) / 256))
    by_minutes = tiny(train={"steps": None, "minutes": 0.002})
    for event in train(resolve(by_minutes), tmp_path / "minutes"):
        if event.kind == "start":
            stored = json.loads((tmp_path / "minutes/preset.json").read_text())
            assert stored["train"]["minutes"] is None
            assert event.values["steps"] == stored["train"]["steps"]
    for _ in train(resolve(tiny(train={"steps": stored["train"]["steps"]})), tmp_path / "steps"):
        pass
    assert left(tmp_path / "minutes") == left(tmp_path / "steps")
    for _ in train(resolve(stored), tmp_path / "again"):
        pass
    assert left(tmp_path / "minutes") == left(tmp_path / "again")
    assert stored["train"]["steps"] == int(60 * 0.002 * 256)
    times = read_events(tmp_path / "minutes/events.jsonl")[0].time
    assert times["minutes"] == 0.002
    assert times["step_ms"] == round(1000 / 256, 3)


def test_minutes_of_a_run_that_has_its_preset_alone_are_measured(
    tiny: Any, tmp_path: Path, measured: list[float]
) -> None:
    """As of one that was started from a page."""
    preset = resolve(tiny(train={"steps": None, "minutes": 3}))
    with RunFolder(tmp_path / "run") as folder:
        folder.write_preset(preset.model_dump(mode="json"))
    start = next(event for event in train(preset, tmp_path / "run", resume=True) if event.kind == "start")
    assert start.time == {"minutes": 3, "step_ms": 180_000 / STEPS}
    assert measured == [3.0]


@pytest.mark.slow
def test_a_resume_by_the_same_minutes_is_exact_and_measures_nothing(
    tiny: Any, tmp_path: Path, measured: list[float], resumes_exactly: Any
) -> None:
    preset = tiny(train={"steps": None, "minutes": 3})
    resumes_exactly(preset, tmp_path, [("start", 1), ("step", 2), ("step", 9)])
    assert measured == [3.0] * 3, "one for each run, none for a resume"


def test_a_run_cut_twice_before_it_saved_still_knows_its_minutes(
    tiny: Any, tmp_path: Path, measured: list[float]
) -> None:
    asked = resolve(tiny(train={"steps": None, "minutes": 3}, save={"every": 100}))
    for _ in range(3):
        for event in train(asked, tmp_path / "run", resume=True):
            if event.kind == "step" and event.step == 2:
                break
    assert measured == [3.0]
    assert read_events(tmp_path / "run/events.jsonl")[0].time["minutes"] == 3
    assert [event.step for event in train(asked, tmp_path / "run", resume=True)][-1] == STEPS


def test_a_resume_by_other_minutes_has_another_past(tiny: Any, tmp_path: Path, measured: list[float]) -> None:
    def resumed(**budget: Any) -> None:
        for _ in train(resolve(tiny(train={"steps": None, **budget})), tmp_path / "run", resume=True):
            pass

    resumed(minutes=3)
    resumed(minutes=3)
    resumed(steps=STEPS)
    with pytest.raises(RunError, match=r"with train\.minutes=4\.0 the learning rate of step 2 would have been"):
        resumed(minutes=4)
    (tmp_path / "run/events.jsonl").rename(tmp_path / "lost")
    resumed(minutes=3)  # nothing is left that says otherwise


def test_a_resume_by_minutes_of_a_run_by_steps_has_another_past(tiny: Any, tmp_path: Path) -> None:
    for _ in train(resolve(tiny(train={"steps": 3})), tmp_path / "run"):
        pass
    asked = resolve(tiny(), ["train.minutes=3"])
    with pytest.raises(RunError, match=r"with train\.minutes=3\.0 the learning rate of step 2 would have been"):
        next(iter(train(asked, tmp_path / "run", resume=True)))


def test_a_run_that_pays_for_compiling_is_timed_compiled(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, measured: list[float]
) -> None:
    original, compiled = setup.resolve_runtime, []

    def worth_it(preset: Any, *given: Any) -> Any:
        steps = given[4]
        compiled.append((steps, preset.train.compile))
        chosen = preset.model_copy(update={"train": preset.train.model_copy(update={"compile": False})})
        built = original(chosen, *given)
        return replace(built, plan=replace(built.plan, compile=steps >= STEPS))

    monkeypatch.setattr(setup, "resolve_runtime", worth_it)
    built = build(resolve(tiny(train={"steps": None, "minutes": 3, "compile": "auto"})))
    assert built.plan.compile
    assert measured == [3.0, 3.0]
    assert compiled == [(1, "auto"), (STEPS, "auto"), (STEPS, "auto")]


@pytest.mark.slow
def test_ranks_rehearse_together_and_resume(tiny: Any, tmp_path: Path) -> None:
    from subprocess import run
    from sys import executable

    path = tmp_path / "preset.json"
    path.write_text(json.dumps(tiny(train={"steps": None, "minutes": 0.02}, model={"dropout": 0.0})))
    torchrun = [executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command = [*torchrun, "--nproc_per_node=2", "-m", "nanogrove", "train", str(path), "--out", str(tmp_path / "run")]
    for more in ([], ["--resume"]):
        ended = run([*command, *more], capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
    stored = json.loads((tmp_path / "run/preset.json").read_text())
    assert read_events(tmp_path / "run/events.jsonl")[-1].step == stored["train"]["steps"]


# The command line.


def test_a_dry_run_says_what_the_minutes_come_to(
    command: Any, tiny: Any, tmp_path: Path, measured: list[float]
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny()))
    shown = command("train", path, "train.minutes=2", "--dry-run").out
    assert f"{STEPS * 64:,} in {STEPS} steps" in shown
    assert f"{STEPS} steps for 2 minutes at 5,000 ms per step in place of train.steps=30" in shown
    assert measured == [2.0]


def test_the_line_that_says_what_will_run_names_the_budget(
    command: Any, tiny: Any, tmp_path: Path, measured: list[float]
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny(train={"steps": None, "tokens": 10_000})))
    by_minutes = command("train", path, "train.minutes=2", "--out", tmp_path / "a").out
    assert "note: train.minutes=2 becomes steps" in by_minutes
    assert f"{STEPS} steps for 2 minutes at 5,000 ms per step in place of train.tokens=10000" in by_minutes
    by_steps = command("train", path, "train.steps=4", "--out", tmp_path / "b").out
    assert "4 steps in place of train.tokens=10000" in by_steps
    assert "in place of" not in command("train", path, "train.tokens=256", "--out", tmp_path / "c").out
    assert "in place of" not in command("train", tmp_path / "b", "--resume").out


def test_minutes_too_short_for_a_step_name_some_that_are_not(command: Any, tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny()))
    error = command("train", path, "train.minutes=1e-7", "--out", tmp_path / "out").error()
    advice = re.search(
        r"train\.minutes=1e-07 is too short: a step takes .* seconds here; set (train\.minutes=\S+) or", error
    )
    assert advice, error
    assert command("train", path, advice[1], "--out", tmp_path / "out").code == 0


def test_minutes_that_rounds_use_up_name_what_makes_them(of_method: Any) -> None:
    with pytest.raises(PresetError) as error:
        build(resolve(of_method("align", 1e-6, **ALIGN)))
    assert "the 4 steps of method.rounds × method.steps_per_round and the first" in str(error.value)
    advice = re.search(r"set train\.minutes=(\S+) or more$", str(error.value))
    assert advice, error.value
    assert build(resolve(of_method("align", float(advice[1]), **ALIGN))).plan.steps > 4


REFUSED = {
    "no time": (["train.minutes=0"], "train.minutes=0: must be above 0"),
    "less than none": (["train.minutes=-1"], "train.minutes=-1: must be above 0"),
    "no number": (["train.minutes=NaN"], "train.minutes=NaN: "),
    "no end": (["train.minutes=1e300"], "train.minutes=1e300: must be 10000000 or less"),
    "two given": (["train.minutes=1", "train.steps=3"], "train.steps=3 and train.minutes=1 exclude each other; give"),
    "three given": (
        ["train.epochs=1", "train.tokens=5", "train.steps=3"],
        "train.steps=3 and train.tokens=5 and train.epochs=1 exclude each other",
    ),
    "one in a section": (
        ['train={"epochs": 2, "batch_size": 4}', "train.steps=3"],
        "train.steps=3 and train.epochs=2 exclude each other",
    ),
    "a method that counts": (
        ["method=evolve", "train.minutes=3"],
        "train: minutes is set, and method evolve counts its own steps; leave it out, set method.generations and "
        "method.steps_per_generation",
    ),
    "a base that is saved": (
        ['method={"name": "align", "reward": {"length": 3}, "base": "runs/a"}', "train.minutes=3"],
        "train.minutes: with method.base, method align counts its own steps; set method.rounds and "
        "method.steps_per_round, and train.steps=1 instead of minutes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(command: Any, tiny: Any, tmp_path: Path, case: str) -> None:
    overrides, expected = REFUSED[case]
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny(train={"steps": None, "tokens": 10_000})))
    assert expected in command("train", path, "--out", tmp_path / "out", *overrides).error()


def test_two_budgets_in_one_file_are_refused_and_one_on_the_command_line_replaces_both(tiny: Any) -> None:
    two = tiny(train={"steps": 3, "minutes": 1})
    with pytest.raises(PresetError, match="train: steps and minutes are set; keep one of steps, tokens, epochs and"):
        resolve(two)
    assert resolve(two, ["train.tokens=5"]).train.budgets == ["tokens"]


@pytest.mark.parametrize("name", ["steps", "tokens", "epochs", "minutes"])
def test_a_budget_on_the_command_line_replaces_any_other(tiny: Any, name: str) -> None:
    for other in ("steps", "tokens", "epochs", "minutes"):
        result = resolve(tiny(train={"steps": None, other: 7}), [f"train.{name}=5"]).train
        assert (result.budgets, getattr(result, name)) == ([name], 5)
    assert resolve(tiny(), [f"train.{name}=5", f"train.{name}=6"]).train.model_dump()[name] == 6


@pytest.mark.parametrize("chain", [False, True])
def test_the_time_of_a_run_is_that_of_its_budget_and_of_the_further_steps(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, chain: bool
) -> None:
    method = {"name": "ensemble", "members": 3, "chain": chain, "distill_steps": 7}
    setup = build(resolve(tiny(method=method, train={"steps": 5})))
    monkeypatch.setattr(estimate, "paces", lambda *_, **__: Paces(Pace(0.6, 0.0), Pace(0.2, 0.0), 7))
    assert estimate.training_seconds(setup) == pytest.approx(5 * 0.6 + 7 * 0.2)
