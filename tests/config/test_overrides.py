"""An override becomes what the field that it sets wants, and one that cannot be is refused in a line."""

import json
from typing import Any

import numpy as np
import pytest

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import as_overrides, replaced, resolve
from nanogrove.errors import PresetError
from nanogrove.methods import load_method

BASE: dict[str, Any] = {"data": {"sources": "my.txt"}, "train": {"steps": 10}}


def value(key: str, *given: str, base: dict[str, Any] = BASE) -> Any:
    """The value of a dotted key in a resolved preset."""
    found: Any = resolve(base, given).model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=1e-3", 0.001),
        ("optimizer.lr=2", 2.0),
        ("train.steps=1e3", 1000),
        ("train.steps= 7 ", 7),
        ("train.compile=true", True),
        ("train.compile=no", False),
        ("train.clip=null", None),
        ("model.n_kv_head=1", 1),
        ("optimizer.betas=[0.8, 0.9]", [0.8, 0.9]),
        ("name=123", "123"),
        ("name=true", "true"),
        ("name=null", "null"),
        ('name="quoted"', "quoted"),
        ("track.name=007", "007"),
        ("track.name=7", "7"),
        ("track.name=null", None),
        ("description=a=b, c = d", "a=b, c = d"),
        ("description=", ""),
        ("data.tokenizer=1e5", "1e5"),
        ('sample.prompts=["1", "null"]', ["1", "null"]),
        ("seed=9223372036854775807", 2**63 - 1),
        ("method=pretrain", load_method("pretrain").Config().model_dump()),
    ],
)
def test_an_override_is_read_as_its_field_wants(override: str, expected: Any) -> None:
    found = value(override.partition("=")[0], override)
    assert found == expected
    assert type(found) is type(expected)


def test_a_setting_of_the_method_without_a_method_section_is_of_the_default_method() -> None:
    section = value("method", 'method.follow={"lr": [[0, 0.01], [5, 0.001]]}')
    assert section["name"] == "pretrain"
    assert section["follow"] == {"lr": [[0, 0.01], [5, 0.001]]}


@pytest.mark.parametrize("given", ["123", "a b.txt", '"a b.txt"', '["123"]', '[{"type": "text", "path": "123"}]'])
def test_sources_may_be_a_bare_path(given: str) -> None:
    (source,) = value("data.sources", f"data.sources={given}")
    assert source["type"] == "text"
    assert source["path"] in ("123", "a b.txt")


def test_the_last_override_counts() -> None:
    assert value("train.steps", "train.steps=3", "train.steps=4") == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.stpes=1", "did you mean train.steps?"),
        ("optimiser.lr=1", "did you mean optimizer.lr?"),
        ("block_size=1", "did you mean model.block_size?"),
        ("model.lr=1", "did you mean optimizer.lr?"),
        ("seeed=1", "did you mean seed?"),
        ("train.steps.more=1", "unknown key train.steps.more"),
        ("train.average.ema=1", "did you mean train.average.half_life?"),
        ("train.average.halflife=1", "did you mean train.average.half_life?"),
        ("train.lora.nonsense=1", "unknown key train.lora.nonsense; train.lora has rank, alpha, targets"),
        ("xyzzy=1", "unknown key xyzzy"),
        ("train.steps=1.5", "train.steps=1.5: "),
        ("train.steps=", "train.steps=: "),
        ("train.compile=perhaps", "train.compile=perhaps: "),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: "),
        ('data.sources=[{"type": "telepathy"}]', "telepathy"),
        ("train=5", "train=5: "),
        ("=5", "'=5' is not an override"),
        ("data.vocab_size=10000000000", "must be 10000000 or less"),
        ("description=\udcff", "description: has half of a character"),
    ],
    ids=ascii,
)
def test_an_override_that_is_refused(override: str, said: str) -> None:
    with pytest.raises(PresetError) as error:
        resolve(BASE, [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_near_is_not_suggested() -> None:
    with pytest.raises(PresetError, match=r"unknown key xyzzy$"):
        resolve(BASE, ["xyzzy=1"])


def test_a_whole_section_may_be_set() -> None:
    assert value("train.batch_size", 'train={"epochs": 2, "batch_size": 3}') == 3


def test_resolving_changes_nothing_that_was_given() -> None:
    base = json.loads(json.dumps(BASE))
    resolve(base, ["train.steps=3", "model.n_layer=2"])
    assert base == BASE


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method.generatons=3", "did you mean method.generations, with method=evolve or method=evolution_strategies?"),
        ("generations=3", "did you mean method.generations, with method=evolve or method=evolution_strategies?"),
        ("method.generations=3", "it goes with method=evolve or method=evolution_strategies"),
        ("data.task=copy", "it goes with data.type=task"),
        ("method.name=evole", "did you mean evolve?"),
        ("data.type=taks", "did you mean task?"),
    ],
)
def test_a_setting_of_another_method_or_type_of_data_is_offered_with_it(override: str, said: str) -> None:
    with pytest.raises(PresetError) as error:
        resolve(BASE, [override])
    assert str(error.value).endswith(said)


@pytest.mark.parametrize("chosen", ["method=evolve", "method.name=evolve", 'method.name="evolve"'])
def test_a_method_is_chosen_by_either_key_before_its_settings(chosen: str) -> None:
    for overrides in ([chosen, "method.generations=3"], ["method.generations=3", chosen]):
        preset = resolve(BASE, overrides)
        assert preset.method.name == "evolve"
        assert preset.model_dump()["method"]["generations"] == 3
        assert [each.key for each in replaced(BASE, overrides)] == ["train.steps"], "it counts its own steps"


def test_the_name_that_a_preset_has_keeps_its_settings() -> None:
    base = {**BASE, "method": {"name": "align", "rounds": 7, "reward": {"terms": {"a": 1.0}}}}
    assert resolve(base, ["method.name=align"]) == resolve(base)
    task = resolve(BASE, ["data.type=task", "data.task=copy", "data.base=[1, 2]"])
    assert task.data.type == "task"
    assert replaced(BASE, ["data.type=text"]) == []


@pytest.mark.parametrize(
    ("preset", "override", "keys"),
    [
        ("own-text", "train.steps=10", ["train.tokens"]),
        ("qa", "data.sources=my.txt", ["data.source_weights", "data.mix_strategy"]),
        ("qa", "data.mix_strategy=round_robin", ["data.source_weights"]),
        ("evolve", 'method.vary={"noise": {"low": 0.1, "high": 0.2}}', ["method.noise"]),
        ("quickstart", "method=evolve", ["train.steps"]),
        ("quickstart", "model.n_layer=2", []),
    ],
)
def test_what_an_override_excludes_gives_way_and_is_named(preset: str, override: str, keys: list[str]) -> None:
    values = read_preset_file(preset)
    resolve(values, [override])
    assert [each.key for each in replaced(values, [override])] == keys
    assert {each.by for each in replaced(values, [override])} <= {override.partition("=")[0]}


def test_of_two_that_the_command_line_gives_none_gives_way() -> None:
    base = {**BASE, "model": {"token_shift": True}}
    assert [each.key for each in replaced(base, ["model.memory_tokens=2"])] == ["model.token_shift"]
    both = ["model.memory_tokens=2", "model.token_shift=true"]
    assert replaced(BASE, both) == []
    with pytest.raises(PresetError, match="memory_tokens and token_shift do not go together"):
        resolve(BASE, both)


def test_values_from_python_are_overrides() -> None:
    values = {"train.steps": np.int64(5), "optimizer.lr": np.float32(0.5), "model.bias": False, "name": "x"}
    assert as_overrides(values) == ["train.steps=5", "optimizer.lr=0.5", "model.bias=false", 'name="x"']
    with pytest.raises(PresetError, match="a setting is a number"):
        as_overrides({"optimizer.lr": object()})
