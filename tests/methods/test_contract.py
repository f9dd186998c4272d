"""Every method answers the contract, and what it says of its settings is so."""

import json
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanogrove.config.preset import Preset
from nanogrove.data.splits import SPLITS
from nanogrove.errors import CheckpointError
from nanogrove.methods import METHODS, load_method
from nanogrove.methods.contract import Method, check_resumed

NEEDED: dict[str, dict[str, Any]] = {"align": {"reward": {"length": 4}}}  # settings without a default


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_complete(name: str) -> None:
    method = load_method(name)
    assert isinstance(method, Method)
    config = method.Config(**NEEDED.get(name, {}))
    assert config.name == name
    assert next(iter(config.model_dump())) == "name", "preset.json names the method first"
    assert set(method.counted_by) <= set(method.Config.model_fields)
    assert method.final_split in SPLITS
    assert bool(method.corpora) == bool(method.needs), "a method that is particular says why"
    assert isinstance(method.trains_heads(config), bool)
    assert method.ranks_share != "members" or method.num_members(config) is not None


@pytest.mark.parametrize("name", METHODS)
def test_steps_follow_from_the_budget_and_from_the_settings_that_count(name: str) -> None:
    method = load_method(name)
    config = method.Config(**NEEDED.get(name, {}))
    assert method.num_steps(config, 7) - method.num_steps(config, 2) == (5 if method.needs_budget else 0)
    further = method.num_steps(config, 0)
    for setting in method.counted_by:
        more = config.model_copy(update={setting: getattr(config, setting) + 1})
        assert method.num_steps(more, 0) > further, setting
    assert bool(further) <= bool(method.counted_by)


def test_every_file_or_folder_of_a_method_is_listed_and_no_other() -> None:
    entries = resources.files("nanogrove.methods").iterdir()
    modules = [entry for entry in entries if entry.name.endswith(".py") or (entry / "__init__.py").is_file()]
    names = {module.name.removesuffix(".py") for module in modules} - {"__init__", "contract", "warm_start"}
    assert names == {path.removeprefix("nanogrove.methods.").partition(".")[0] for path in METHODS.values()}


@pytest.mark.parametrize("name", METHODS)
def test_a_preset_holds_the_settings_of_its_method(name: str) -> None:
    train = {"steps": 5} if load_method(name).needs_budget else {}
    given = {"name": name, **NEEDED.get(name, {})}
    preset = Preset.model_validate({"method": given, "data": {"sources": "a.txt"}, "train": train})
    assert type(preset.method) is load_method(name).Config
    stored = json.loads(preset.model_dump_json())
    assert stored["method"] == preset.method.model_dump(mode="json")
    assert Preset.model_validate(stored) == preset


ROUND = {"name": "round-1", "difficulties": [4]}
CURRENT = {**ROUND, "round": 1, "labels": [{}], "rows": 0, "strict": False, "decode": 0.1, "trained": 1.0}
ROUNDS = {
    "frontier": 3,
    "accepted": [],
    "agreement": {"4": 0.5},
    "firmest": {},
    "least": [0.1],
    "strict": 0,
    "settled": 1,
    "current": CURRENT,
}
SOURCES = {
    "phases": [[0, [0.5, 0.5]], [8, [0.9, 0.1]]],
    "number": 0,
    "counts": [0, 0],
    **{key: [0.0, 0.0] for key in ("nll", "share", "rewards", "given")},
    **{key: [[0.0] * 7] * 2 for key in ("moments", "moments_before")},
    "begun": 0,
    "turns": 0,
    "reference": None,
}
KEPT: dict[str, dict[str, Any]] = {  # of healthy runs
    "ensemble": {"student_best": 2.5},
    "evolve": {"members": [0, 4], "born": 5, "values": {"lr": [0.1, 0.2]}},
    "self_improve": ROUNDS,
    "pretrain": {"sources": SOURCES},
    "align": {"reward_before": 0.5, "reward_before_error": None},
    "reward_model": {"scale": [0.0, 1.0]},
    "evolution_strategies": {},
    "policy_gradient": {"reward_before": 0.5, "reward_before_error": 0.1},
}
SETTINGS: dict[str, dict[str, Any]] = {
    **NEEDED,
    "evolve": {"population_size": 2, "replaced": 0.5, "parents": 0.5, "vary": {"lr": {"low": 0.1, "high": 1.0}}},
    "self_improve": {"si_rounds": 2, "si_iter": 4, "guard": False},
    "policy_gradient": {"base_steps": 6},
}


def resume(name: str, kept: dict[str, Any]) -> None:
    """Checks what a checkpoint of step 6 says that a method kept: two members, two sources, difficulties 1 to 3."""
    corpus: Any = SimpleNamespace(base=(1, 3), fits=lambda difficulty: difficulty < 8, names=["a", "b"], batch_size=4)
    corpus.mixture = lambda: corpus
    state: Any = SimpleNamespace(method_state=kept, method_tensors={}, step=6, ensemble=8)
    plan: Any = SimpleNamespace(steps=12)
    method = load_method(name)
    check_resumed(method, state, corpus, plan, method.Config(**SETTINGS.get(name, {})), Path("run/checkpoints/current"))


@pytest.mark.parametrize("name", KEPT)
def test_a_method_goes_on_from_what_it_kept(name: str) -> None:
    resume(name, KEPT[name])


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("evolve", {"members": None}, "/state.json: damaged, members must be a list"),
        ("evolve", {"members": [0]}, ": cannot be resumed from, it does not have a number for each of 2 members"),
        (
            "evolve",
            {"values": {}},
            "its values are not of the hyperparameters in method.vary",
        ),
        ("evolve", {"born": -1}, "/state.json: damaged, born must be 0 or more, and -1 was given"),
        ("self_improve", {"frontier": 10**6}, "it opens a difficulty outside 3 to 5"),
        ("self_improve", {"least": []}, "it does not have a loss for the base and for each accepted round"),
        ("self_improve", {"current": {**CURRENT, "name": "../../x"}}, "current.name must be text of the pattern"),
        ("self_improve", {"firmest": {"99": 1.0}}, "it has the agreement at a difficulty that the model cannot read"),
        ("pretrain", {"sources": {**SOURCES, "counts": [0]}}, "its sources are not the 2 of data"),
        ("pretrain", {"sources": {**SOURCES, "phases": []}}, "its weights of sources are none, zero or out of order"),
        ("pretrain", {"sources": {**SOURCES, "phases": [[10**12, [1.0, 0.0]]]}}, "zero or out of order"),
        ("pretrain", {"sources": {**SOURCES, "nll": [0.0, float("nan")]}}, "sources.nll.1 must be a finite number"),
        ("align", {"ended": [[]]}, "ended must be text"),
        ("ensemble", {"student_best": float("inf")}, "student_best must be a finite number"),
        ("ensemble", {"student_best": "a"}, "/state.json: damaged, student_best must be a number"),
        ("reward_model", {"scale": [0.0]}, "scale must be 2 or more entries long"),
        ("policy_gradient", {"reward_before": [0.5, 0.5]}, "its reward_before is not one number for each model"),
        ("policy_gradient", {"reward_before": float("inf")}, "reward_before"),
        ("evolution_strategies", {"a": 1}, "'a' is nothing that method evolution_strategies keeps"),
    ],
)
def test_what_no_method_kept_is_refused_in_one_line(name: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resume(name, {**KEPT[name], **changed})
    assert message in str(caught.value)
    assert str(caught.value).startswith("run/checkpoints/current")
    assert "\n" not in str(caught.value)


def test_a_round_under_way_needs_its_own_record() -> None:
    with pytest.raises(CheckpointError, match="its step is within a round, and no round is under way"):
        resume("self_improve", {key: value for key, value in ROUNDS.items() if key != "current"})
