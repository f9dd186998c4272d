"""Steps at equal compute: by tokens, counted FLOPs and measured time; and what has no common measure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.studies.conftest import MakeStudy

from nanogrove.errors import StudyError
from nanogrove.studies.arms import Candidate, candidates, common_measure
from nanogrove.studies.budget import Cost, Equal, Measured, Steps, equal_steps
from nanogrove.studies.computation import computation
from nanogrove.studies.judge import judge, lines
from nanogrove.studies.prepare import make_plan
from nanogrove.studies.timing import measure_times

BASE = {"name": "base", "overrides": ["train.steps=40"]}


def arms(*overrides: str) -> list[dict[str, Any]]:
    """The base, and an arm for each override beside its own."""
    return [BASE, *({"name": f"arm{n}", "overrides": [text]} for n, text in enumerate(overrides))]


def no_clock(entries: Sequence[Candidate]) -> list[Measured]:
    raise AssertionError("nothing is to be timed")


def steps(study: MakeStudy, equal: Equal, *overrides: str, clock: Any = no_clock) -> list[Steps]:
    return equal_steps(equal, candidates(study(arms=arms(*overrides), equal=equal)), clock)


def test_equal_tokens_follow_batch_and_context(study: MakeStudy) -> None:
    planned = steps(study, "tokens", "train.batch_size=8", "model.block_size=8", "train.steps=7", "train.tokens=99")
    assert [each.steps for each in planned] == [40, 20, 80, 40, 40]
    assert not any(each.open for each in planned)


def test_equal_flops_are_counted(study: MakeStudy) -> None:
    base, deeper = candidates(study(arms=arms("model.n_layer=4")))
    per_token = [each.setup.new_state().model.flops_per_token(16) for each in (base, deeper)]
    planned = steps(study, "flops", "model.n_layer=4")
    assert planned[1].steps == round(40 * per_token[0] / per_token[1]) < 40


def test_equal_data_leaves_each_arm_its_own_budget_and_its_compute_is_said(study: MakeStudy) -> None:
    ensemble = ["method.name=ensemble", "method.members=3", "train.steps=30"]
    overrides = {"double": [*ensemble, "train.steps=80"], "chain": [*ensemble, "method.chain=true"]}
    overrides["pupil"] = [*ensemble, "method.distill_steps=15"]
    asked = [BASE, *({"name": name, "overrides": each} for name, each in overrides.items())]
    chosen = study(arms=asked, equal="data", seeds=7)
    plan = make_plan(chosen)
    assert [(each.steps, each.all_steps) for each in plan.arms] == [(40, 40), (80, 80), (30, 90), (30, 45)]
    said = [line for line in lines(judge(chosen, plan, {}, 7)) if "FLOPs" in line]
    assert said == [
        "double trains with 6 times the FLOPs of base",
        "chain trains with 2.25 times the FLOPs of base",
        "pupil trains with 2.62 times the FLOPs of base",
    ]


def test_equal_data_are_the_same_tokens(study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="arm arm0: learns from other data than arm base, and equal data asks for the"):
        steps(study, "data", "data.tokenizer=byte")


def test_equal_tokens_count_a_chain_and_its_student(study: MakeStudy) -> None:
    """40 steps of one model are 10 of each of three in a chain and 10 of a student, whichever arm is the first."""
    chain = ["method.name=ensemble", "method.members=3", "method.chain=true", "method.distill_steps=10"]
    forwards = [BASE, {"name": "chain", "overrides": [*chain, "train.steps=5"]}]
    assert [each.steps for each in equal_steps("tokens", candidates(study(arms=forwards)), no_clock)] == [40, 10]
    backwards = [{"name": "chain", "overrides": [*chain, "train.steps=10"]}, {"name": "one"}]
    assert [each.steps for each in equal_steps("tokens", candidates(study(arms=backwards)), no_clock)] == [10, 40]


def test_arms_that_compute_the_same_have_equal_steps_without_a_clock(study: MakeStudy) -> None:
    same = ("optimizer.lr=0.5", "optimizer.betas=[0.5,0.5]", "schedule.warmup=3", "seed=4", "model.dropout=0.3")
    assert {each.steps for each in steps(study, "time", *same)} == {40}


@pytest.mark.parametrize("override", ["model.dropout=0", "optimizer.name=sgd", "model.n_layer=3", "train.clip=null"])
def test_other_computations_are_told_apart(study: MakeStudy, override: str) -> None:
    base, other = candidates(study(arms=arms(override)))
    assert computation(base.setup.preset) != computation(other.setup.preset)


def test_what_happens_between_steps_is_no_computation(study: MakeStudy) -> None:
    preset = {**study().preset, "train": {"batch_size": 4, "device": "cpu"}}  # type: ignore[dict-item]
    evolve = ["method.name=evolve", "method.significance=null", "method.generations=2"]
    overrides = {"bred": [], "searched": ["method.selection=none"], "fewer": ["method.population_size=4"]}
    asked = [{"name": name, "preset": preset, "overrides": [*evolve, *own]} for name, own in overrides.items()]
    bred, searched, fewer = (computation(each.setup.preset) for each in candidates(study(arms=asked)))
    assert bred == searched != fewer


def test_equal_time_leaves_an_interval_of_steps(study: MakeStudy) -> None:
    def clock(entries: Sequence[Candidate]) -> list[Measured]:
        assert [each.arm for each in entries] == ["base", "arm0"]
        return [Measured(Cost(1.0, 0.0), 1.0, 1.0), Measured(Cost(2.0, 0.0), 0.8, 1.25)]

    planned = steps(study, "time", "optimizer.name=muon", "optimizer.lr=0.5", clock=clock)
    assert planned == [Steps(40, 40, 40), Steps(20, 16, 25), Steps(40, 40, 40)]


def test_time_is_measured_in_turn(study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by what was asked of it: the second candidate takes twice as long as the first."""
    entries = candidates(study(arms=arms("model.n_layer=4")))
    monkeypatch.setattr("nanogrove.studies.timing.ROUNDS", 4)
    monkeypatch.setattr("nanogrove.studies.timing.ROUND_SECONDS", 0.004)
    first, second = measure_times(entries)
    assert (first.low, first.high) == (1.0, 1.0)
    assert second.low <= 1.0 <= second.high
    assert second.cost.main > first.cost.main > 0


def test_methods_that_count_their_own_steps_must_have_the_compute_of_the_first(study: MakeStudy) -> None:
    evolve = ["method.name=evolve", "method.population_size=4", "method.generations=1", "method.significance=null"]
    asked: list[dict[str, Any]] = [
        BASE,
        {"name": "pbt", "overrides": [*evolve, "method.steps_per_generation=10", "model.dropout=0"]},
    ]
    preset = {key: value for key, value in study().preset.items() if key != "train"}  # type: ignore[union-attr]
    train = {"batch_size": 4, "device": "cpu"}
    asked[1]["preset"] = {**preset, "train": train}
    assert [each.steps for each in equal_steps("tokens", candidates(study(arms=asked)), no_clock)] == [40, 0]
    asked[1]["overrides"][4] = "method.steps_per_generation=15"
    with pytest.raises(StudyError, match=r"arm pbt: evolve counts its own steps, and has 1\.5 times the tokens"):
        equal_steps("tokens", candidates(study(arms=asked)), no_clock)


@pytest.mark.parametrize(("reach", "refused"), [(0.2, False), (0.02, True)])
def test_their_own_steps_are_equal_where_the_measured_ratio_may_be_1(
    study: MakeStudy, reach: float, refused: bool
) -> None:
    def clock(entries: Sequence[Candidate]) -> list[Measured]:
        return [Measured(Cost(1.0, 0.0), 1.0, 1.0), Measured(Cost(0.0, 4.4), 1 - reach, 1 + reach)]

    evolve = ["method.name=evolve", "method.population_size=4", "method.generations=1", "method.significance=null"]
    preset = {**study().preset, "train": {"batch_size": 4, "device": "cpu"}}  # type: ignore[dict-item]
    bred = {"name": "pbt", "preset": preset, "overrides": [*evolve, "method.steps_per_generation=10"]}
    entries = candidates(study(arms=[BASE, bred], equal="time"))
    if refused:
        with pytest.raises(StudyError, match=r"has 1\.1 times the time of the first arm"):
            equal_steps("time", entries, clock)
    else:
        assert [each.steps for each in equal_steps("time", entries, clock)] == [40, 0]


def test_too_little_compute_for_a_step_is_refused(study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="arm arm0: the tokens of the first arm are not enough for one of its steps"):
        equal_steps(
            "tokens",
            candidates(study(arms=[{"name": "b", "overrides": ["train.steps=1"]}, *arms("train.batch_size=64")[1:]])),
            no_clock,
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lrr=1"], r"arm arm0: unknown key optimizer\.lrr"),
        (["method.generations=3"], r"arm arm0: unknown key method\.generations"),
        (["data.sources=missing.txt"], r"arm arm0: missing\.txt"),
        (["train.steps=4"], None),
    ],
)
def test_an_arm_that_cannot_be_is_named(study: MakeStudy, overrides: list[str], message: str | None) -> None:
    asked = study(arms=arms(*overrides))
    if message is None:
        assert len(candidates(asked)) == 2
        return
    with pytest.raises(StudyError, match=message):
        candidates(asked)


def test_two_arms_of_the_same_settings_are_refused(study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="arms base and arm0 have the same settings, so nothing could differ"):
        candidates(study(arms=arms("train.steps=40")))


def test_arms_have_one_measure(study: MakeStudy, tmp_path: Path) -> None:
    entries = candidates(study(arms=arms("optimizer.lr=0.5")))
    measure, split = common_measure(study(), entries)
    assert (measure.name, split) == ("loss", "validation")
    tested = candidates(study(arms=arms("optimizer.lr=0.5"), overrides=["evaluate.final=test", "data.test=0.2"]))
    assert common_measure(study(), tested)[1] == "test"
    other = candidates(study(arms=arms("data.tokenizer=byte")))
    assert common_measure(study(), other)[0].name == "bits_per_byte"
    with pytest.raises(
        StudyError, match="measure exact_match: not one that all arms have; they have loss, bits_per_byte"
    ):
        common_measure(study(measure="exact_match"), entries)
    grammar = {
        "data": {"type": "rlm", "L": 3, "v": 4, "training_set": 50},
        "model": {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8},
        "train": {"steps": 4, "device": "cpu"},
    }
    apart = candidates(study(arms=[BASE, {"name": "grammar", "preset": grammar}]))
    with pytest.raises(StudyError, match=r"no measure in common.*: base has loss, bits_per_byte; grammar has loss"):
        common_measure(study(), apart)


def test_auto_settings_are_pinned(study: MakeStudy) -> None:
    auto = ["train.threads=auto", "train.precision=auto", "train.compile=auto", "train.accumulation=auto"]
    plan = make_plan(study(overrides=auto))
    train = plan.arms[0].preset["train"]
    assert (train["threads"], train["precision"], train["compile"], train["accumulation"]) == (1, "float32", False, 1)
    assert plan.arms[0].preset["sample"]["tokens"] == 0
    assert plan.arms[0].requested["train"]["threads"] == "auto"
