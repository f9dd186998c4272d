"""The table of families: settings that build a model, an exchange for each, and the error for any other name."""

import pytest
from pydantic import ValidationError

from nanogrove.model.config import ModelConfig
from nanogrove.model.families.family import keys, names, table
from nanogrove.model.families.table import EXCHANGES, FAMILIES, SETTINGS


@pytest.mark.parametrize("family", SETTINGS)
def test_what_is_not_named_beside_a_family_is_what_the_family_says(family: str) -> None:
    config = ModelConfig.model_validate({"family": family, "vocab_size": 8})
    assert {name: getattr(config, name) for name in SETTINGS[family]} == dict(SETTINGS[family])
    assert ModelConfig.model_validate({"family": family, "bias": not config.bias}).bias is not config.bias


@pytest.mark.parametrize("name", ["qwen3", "GPT2", 3, None])
def test_another_family_is_refused_as_a_literal_is(name: object) -> None:
    with pytest.raises(ValidationError) as refused:
        ModelConfig.model_validate({"family": name})
    problem = refused.value.errors()[0]
    assert (problem["type"], problem["loc"]) == ("literal_error", ("family",))
    assert problem["msg"] == "Input should be 'gpt2', 'llama' or 'nanochat'"


@pytest.mark.parametrize("name", EXCHANGES)
def test_an_exchange_comes_back_as_a_family_and_has_what_it_fixes(name: str) -> None:
    assert (FAMILIES[name].imported_as or name) in SETTINGS
    settings = {*ModelConfig.model_fields, "head_size"}
    assert EXCHANGES[name].has.keys() <= settings
    assert {row[0] for row in EXCHANGES[name].keys.values()} <= settings


def test_the_three_notations() -> None:
    assert table("a=1|x b= c=null") == {"a": (1, "x"), "b": (), "c": (None,)}
    assert keys("a=b c=d|1e-5 e=f|null") == {"a": ("b",), "c": ("d", 1e-5), "e": ("f", None)}
    assert names("a=b.c|d") == {"a": ("b.c", "d")}
