"""Evolution: what a generation does to the population, exact resume, lineage, islands, and what is refused."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.data.rng import derived_seed
from nanogrove.errors import PresetError
from nanogrove.language_model import load
from nanogrove.methods.evolve import generations
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event, read_events
from nanogrove.record.lineage import genealogy, replay, schedule, winning_line
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import load_checkpoint, load_latest


@pytest.fixture
def preset(tiny: Any) -> dict[str, Any]:
    """Six members, four generations of three steps, everything that can vary varied."""
    made = tiny(
        method={
            "name": "evolve",
            "population_size": 6,
            "generations": 4,
            "steps_per_generation": 3,
            "replaced": 0.34,
            "parents": 0.34,
            "significance": None,
            "noise": 0.01,
            "crossover": "layers",
            "vary": {
                "lr": {"low": 1e-4, "high": 0.1, "factor": 1.5},
                "weight_decay": {"values": [0.0, 0.1]},
                "dropout": {"values": [0.0, 0.1, 0.3]},
            },
        },
        evaluate={"every": 3, "tokens": 300},
        save={"every": 2},
        sample={"every": 100, "tokens": 8},
    )
    made["train"].pop("steps")
    return made


def of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event.kind == kind]


def run(preset: dict[str, Any], out: Path, *overrides: str) -> list[Event]:
    for _ in train(resolve(preset, overrides), out):
        pass
    return read_events(out / "events.jsonl")


def test_a_run_records_every_birth_and_leaves_one_ordinary_model(preset: dict, tmp_path: Path, forked: Any) -> None:
    events = run(preset, tmp_path / "run")
    generations = of(events, "generation")
    assert [event.values["generation"] for event in generations] == [1, 2, 3, 4]
    assert [event.step for event in generations] == [3, 6, 9, 12]
    known = set(range(6))
    for event, after in pairwise(generations):
        births = event.values["births"]
        assert len(births) == 2
        for birth in births:
            assert set(birth["parents"]) <= set(event.values["members"])
            assert birth["member"] not in known
            known.add(birth["member"])
            assert after.values["members"][birth["slot"]] == birth["member"]
            for name, value in birth["values"].items():
                assert after.values["values"][name][birth["slot"]] == value
            worst = sorted(event.values["score"])[-2:]
            assert event.values["score"][birth["slot"]] in worst
    assert "births" not in generations[-1].values
    best = load_checkpoint(tmp_path / "run/checkpoints/best")
    assert best.model["embed.weight"].dim() == 2
    scores = [min(event.values["score"]) for event in of(events, "eval")]
    assert best.state["best"]["score"] == min(scores)
    lm = load(tmp_path / "run")
    assert lm.model.population is None
    assert isinstance(lm.generate("the", tokens=3), str)
    end = of(events, "end")[0].values
    assert end["split"] == "test"
    assert end["loss"] == pytest.approx(nanogrove.score(tmp_path / "run", "test")["loss"], abs=1e-6)
    assert not any(event.values.get("split") == "test" for event in of(events, "eval"))
    assert of(events, "sample")
    listed = forked("lineage", tmp_path / "run", "--out", tmp_path / "winner.json")
    assert listed.code == 0, listed.err
    assert "generation   1" in listed.out
    assert json.loads((tmp_path / "winner.json").read_text())["method"]["name"] == "pretrain"


def test_a_kill_behind_any_step_and_a_resume_give_the_same_lineage_and_weights(
    preset: dict, tmp_path: Path, resumes_exactly: Any
) -> None:
    stops = [("step", n) for n in range(1, 12)] + [("generation", n) for n in (1, 2, 3)]
    record = resumes_exactly(preset, tmp_path, stops)
    assert sum(bool(line.get("births")) for line in record) == 3


def test_a_mutated_learning_rate_is_the_one_that_is_used_and_lies_in_the_checkpoint(
    preset: dict, tmp_path: Path
) -> None:
    events = run(preset, tmp_path / "run")
    current, _ = load_latest(tmp_path / "run/checkpoints")
    last = of(events, "generation")[-1].values
    assert current.state["notes"]["values"] == last["values"]
    steps = {event.step: event.values["lr"] for event in of(events, "step")}
    factor = resolve(preset).schedule
    assert factor.name == "cosine"
    for event in of(events, "generation"):
        rates, used = event.values["values"]["lr"], steps[event.step]
        shares = [lr / rate for lr, rate in zip(used, rates, strict=True)]
        assert max(shares) == pytest.approx(min(shares)), "one schedule, rates of their own"


def test_without_breeding_members_are_what_they_would_be_alone(preset: dict, tmp_path: Path) -> None:
    preset["method"] = {**preset["method"], "selection": "none", "vary": {"lr": {"low": 1e-3, "high": 0.05}}}
    preset["model"]["dropout"] = 0.0
    events = run(preset, tmp_path / "run")
    assert not any(event.values.get("births") for event in of(events, "generation"))
    rates = of(events, "generation")[0].values["values"]["lr"]
    alone = {**preset, "method": "pretrain", "train": {**preset["train"], "steps": 12}, "seed": 0}
    other = run(alone, tmp_path / "alone", f"optimizer.lr={rates[0]}")
    ours = [event.values["loss"][0] for event in of(events, "step")]
    theirs = [event.values["loss"] for event in of(other, "step")]
    assert ours == pytest.approx(theirs, abs=2e-5)


def test_the_winner_s_schedule_replayed_on_one_model_is_the_winner(preset: dict, tmp_path: Path) -> None:
    """Without noise and crossover a line of descent is one model's training, begun from its first ancestor's seed."""
    preset["method"] = {
        **preset["method"],
        "noise": 0.0,
        "crossover": None,
        "vary": {"lr": {"low": 1e-3, "high": 0.1, "factor": 1.5}, "weight_decay": {"values": [0.0, 0.1, 0.3]}},
    }
    preset["model"] |= {"dropout": 0.0, "bias": False}  # a key's bias has no gradient but rounding
    events = run(preset, tmp_path / "run")
    generations = of(events, "generation")
    line = winning_line(genealogy(generations))
    assert [life.generation for life in line] == list(range(1, line[-1].generation + 1))
    one = replay(json.loads((tmp_path / "run/preset.json").read_text()), line)
    assert one["method"]["follow"] == schedule(line)
    parts = build(resolve(one))
    from nanogrove.methods import pretrain
    from nanogrove.train.optim.optimizer import make_optimizer
    from nanogrove.train.state import TrainState

    model = GPT(parts.model_on_data).initialize(derived_seed(parts.preset.seed, "member", line[0].member))
    state = TrainState(model, make_optimizer(model, parts.preset.optimizer))
    assert isinstance(parts.preset.method, pretrain.Config)
    replayed = list(pretrain.run(state, parts.corpus, parts.plan, parts.preset.method))
    score = [event for event in replayed if event.kind == "eval"][-1].values["loss"]
    assert score == pytest.approx(line[-1].score, abs=1e-4)
    best = load_checkpoint(tmp_path / "run/checkpoints/best").model
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(parameter, best[name], atol=1e-4, rtol=0)


def poison(monkeypatch: pytest.MonkeyPatch, members: list[int]) -> None:
    """Spoils members' weights after step 2."""
    original = generations.fit_members

    def fit(state: Any, *rest: Any) -> Any:
        for event in original(state, *rest):
            if event.step == 2:
                with torch.no_grad():
                    for member in members:
                        state.model.embed.weight[member, 0, 0] = math.nan
            yield event

    monkeypatch.setattr(generations, "fit_members", fit)


def test_a_member_that_is_no_number_is_replaced_by_a_survivor_and_the_run_goes_on(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, [1, 4, 5])
    preset["method"]["significance"] = 0.01
    events = run(preset, tmp_path / "run")
    first, second = of(events, "generation")[:2]
    assert first.values["diverged"] == [1, 4, 5]
    replaced = {birth["slot"]: birth for birth in first.values["births"]}
    assert {1, 4, 5} <= replaced.keys()
    assert all(replaced[slot]["parents"][0] in (0, 2, 3) for slot in (1, 4, 5))
    assert first.values["score"][1] is None
    assert all(score is not None for score in second.values["score"])


def test_a_member_that_is_no_number_is_found_by_any_fitness(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding takes a likeliest token where numbers are NaN, too, and so would score it."""
    poison(monkeypatch, [0])
    preset["data"] = {"type": "task", "task": "copy", "base": [1, 2], "held_out": 10}
    preset["method"] |= {"fitness": "exact_match", "crossover": None}
    preset["sample"] = {"tokens": 0}
    first = of(run(preset, tmp_path / "run"), "generation")[0]
    assert first.values["diverged"] == [0]
    assert 0 in [birth["slot"] for birth in first.values["births"]]


def test_an_island_that_died_sends_nobody_and_is_refilled(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, [0, 1, 2])
    preset["method"] |= {"islands": 2, "migrate_every": 1, "crossover": None}
    first, second = of(run(preset, tmp_path / "run"), "generation")[:2]
    kinds = {birth["slot"]: (birth["kind"], birth["parents"][0]) for birth in first.values["births"]}
    assert all(kinds[slot][1] in (3, 4, 5) for slot in (0, 1, 2))
    assert not second.values["diverged"]
    assert all(kind != "migrant" for slot, (kind, _) in kinds.items() if slot > 2)


def test_without_selection_the_dead_stay_dead(preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, [2])
    preset["method"] |= {"selection": "none", "islands": 2, "migrate_every": 1, "crossover": None}
    for event in of(run(preset, tmp_path / "run"), "generation")[:-1]:
        assert event.values["diverged"] == [2]
        assert event.values["births"] == []


def test_too_few_documents_for_a_test_are_refused_and_the_advice_is_enough(
    preset: dict, tmp_path: Path, forked: Any
) -> None:
    preset["method"]["significance"] = 0.05
    preset["evaluate"]["tokens"] = 16
    (tmp_path / "few.json").write_text(json.dumps(preset))
    line = forked("train", tmp_path / "few.json", "--out", tmp_path / "run").error()
    assert "method.significance=0.05 needs 12 documents to rank and to test members on, and 1 are scored" in line
    advice = line.rpartition("set ")[2].strip()
    assert advice.startswith("evaluate.tokens=")
    assert of(run(preset, tmp_path / "enough", advice), "generation")
    again = forked("train", tmp_path / "few.json", "data.validation=0.002", "--out", tmp_path / "small").error()
    assert "set method.significance=null, which replaces without a test, or give more validation data" in again
    small = [advice, "data.validation=0.002", "method.significance=null"]
    assert of(run(preset, tmp_path / "untested", *small), "generation")


def test_when_all_are_no_numbers_the_run_stops_with_an_error(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, list(range(6)))
    with pytest.raises(nanogrove.NanogroveError, match="diverged at step 3: loss nan"):
        run(preset, tmp_path / "run")


def test_islands_breed_among_their_own_and_migrants_move_on(preset: dict, tmp_path: Path) -> None:
    preset["method"] = {
        **preset["method"],
        "islands": 2,
        "migrate_every": 2,
        "generations": 6,
        "noise": 0.0,
        "crossover": None,
    }
    events = run(preset, tmp_path / "run")
    for event in of(events, "generation")[:-1]:
        members = event.values["members"]
        for birth in event.values["births"]:
            parent = members.index(birth["parents"][0])
            same = (parent < 3) == (birth["slot"] < 3)
            assert same == (birth["kind"] != "migrant")
        kinds = [birth["kind"] for birth in event.values["births"]]
        assert kinds.count("migrant") == (2 if event.values["generation"] % 2 == 0 else 0)


def test_tournament_with_a_strict_test_spares_members(preset: dict, tmp_path: Path) -> None:
    preset["method"] |= {"selection": "tournament", "significance": 0.001, "vary": {}, "noise": 0.0}
    preset["evaluate"]["tokens"] = 1000
    events = run(preset, tmp_path / "run")
    spared = [len(event.values["spared"]) for event in of(events, "generation")[:-1]]
    births = [len(event.values["births"]) for event in of(events, "generation")[:-1]]
    assert sum(spared) > sum(births)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"population_size": 1}, "method.population_size: must be 2 or more, and 1 was given"),
        ({"replaced": 0.1}, "replaced=0.1 of 6 members rounds down to 0"),
        ({"parents": 0.1}, "parents=0.1 of 6 members rounds down to 0"),
        ({"replaced": 0.7, "parents": 0.7}, "replaced and parents, 4 + 4, are more than the 6 members"),
        ({"elites": 6}, "elites 6 of 6 members leave nobody to replace"),
        ({"elites": 5}, "replaced and elites, 2 + 5, are more than the 6 members"),
        ({"islands": 4}, "6 members do not make 4 islands"),
        ({"islands": 6}, "6 members do not make 6 islands of two or more"),
        ({"vary": {"lr": {"low": 1.0, "high": 0.1}}}, "the bounds are reversed, low 1 and high 0.1"),
        ({"vary": {"lr": {"values": [0.0, 0.1]}}}, "vary.lr must stay above 0"),
        ({"vary": {"dropout": {"values": [0.0, 1.0]}}}, "vary.dropout reaches 1"),
        ({"vary": {"speed": {"low": 1, "high": 2}}}, "method.vary.speed"),
        ({"crossover": "layers", "replaced": 0.17, "parents": 0.17}, "crossover layers takes two parents"),
        ({"vary": {"noise": {"low": 0.1, "high": 0.2}}}, "noise is given and vary.noise too"),
        ({"fitness": "exact_match"}, "set data.type=task"),
        ({"fitness": "luck"}, "method.fitness=luck is unknown"),
        ({"fitness": {"function": "os:getcwd"}}, "add --allow-code"),
        ({"fitness": {"length": -1}}, "method.fitness"),
    ],
)
def test_settings_that_make_no_sense(change: dict, said: str, preset: dict, tmp_path: Path) -> None:
    preset["method"] |= change
    with pytest.raises(PresetError) as error:
        run(preset, tmp_path / "run")
    assert said in str(error.value)
    assert not (tmp_path / "run/preset.json").exists()


def test_a_budget_of_train_is_refused(preset: dict) -> None:
    with pytest.raises(PresetError, match="steps is set, and method evolve counts its own steps"):
        resolve(preset, ["train.steps=5"])


def test_a_run_that_is_no_evolution_has_no_lineage(tiny: Any, tmp_path: Path, forked: Any) -> None:
    run(tiny(train={"steps": 2}), tmp_path / "run")
    assert "is not an evolution" in forked("lineage", tmp_path / "run").error()


def test_a_line_is_traced_through_deaths_and_crossovers() -> None:
    def generation(number: int, members: list[int], score: list[float], births: list[dict]) -> Event:
        values = {"lr": [float(member) for member in members]}
        told = {"generation": number, "members": members, "score": score, "values": values, "births": births}
        return Event("generation", 10 * number, told)

    events = [
        generation(1, [0, 1, 2], [3.0, 2.0, 2.5], [{"slot": 0, "member": 3, "parents": [1, 2]}]),
        generation(2, [3, 1, 2], [1.9, 1.8, 2.4], [{"slot": 2, "member": 4, "parents": [3]}]),
        generation(3, [3, 1, 4], [1.5, 1.6, 1.2], []),
    ]
    line = winning_line(genealogy(events))
    assert [(life.generation, life.member, life.score) for life in line] == [(1, 1, 2.0), (2, 3, 1.9), (3, 4, 1.2)]
    assert schedule(line) == {"lr": [[0, 1.0], [10, 3.0], [20, 4.0]]}
    assert winning_line([]) == []
