"""Every method answers the contract, and what it says of its settings is so."""

import json
from importlib import resources
from typing import Any

import pytest

from nanogrove.config.preset import Preset
from nanogrove.data.splits import SPLITS
from nanogrove.methods import METHODS, load_method
from nanogrove.methods.contract import Method

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
    assert (method.num_members(config) is not None) == (method.ranks_share == "members")


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
