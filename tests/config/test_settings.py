"""The table of settings: whole, described, and found by key, section or something near."""

import pytest

from nanogrove.config.preset import Preset
from nanogrove.config.settings import Setting, Values, all_settings, find_settings
from nanogrove.data.sources.kinds import KINDS
from nanogrove.errors import PresetError
from nanogrove.methods import METHODS, load_method

SETTINGS = all_settings()


def only(key: str, of: str | None = None) -> Setting:
    """The one setting of this key and owner."""
    (setting,) = [setting for setting in SETTINGS if (setting.key, setting.of) == (key, of)]
    return setting


def test_every_setting_says_what_it_means() -> None:
    silent = [f"{s.key} ({s.of})" for s in SETTINGS if not s.description]
    assert not silent, f"give these a description that says meaning and unit: {', '.join(silent)}"


def test_all_sections_methods_data_and_sources_are_listed() -> None:
    assert {setting.key.partition(".")[0] for setting in SETTINGS} == set(Preset.model_fields)
    assert {setting.of for setting in SETTINGS if setting.key.startswith("method.")} == {
        name for name in METHODS if load_method(name).Config.model_fields
    }
    assert {setting.of for setting in SETTINGS if setting.key.startswith("data.sources[].")} == set(KINDS)
    assert len({(setting.key, setting.of) for setting in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize(
    ("key", "of", "type", "default"),
    [
        ("seed", None, "a whole number, ≥ 0, < 9223372036854775808", 0),
        ("train.minutes", None, "a number or null, > 0, ≤ 10000000", None),
        ("train.threads", None, "auto or a whole number ≥ 1, ≤ 1024", "auto"),
        ("model.position", None, "one of learned, rotary, none, coupled", "learned"),
        ("schedule.name", None, "one of cosine, wsd, constant", "cosine"),
        ("optimizer", None, "a section", None),
        ("data.validation", "text", "a number, > 0, < 1", 0.05),
        ("data.sources[].fields", "csv", "a list, each text or null, 1 or more long", None),
        ("sample.prompts", None, "a list, each text", [""]),
        ("method.rounds", "align", "a whole number, ≥ 1", 5),
        ("method.adaptive.interval", "pretrain", "a whole number, ≥ 1", 5_000_000),
        ("data.sources[].type", "csv", "csv", "csv"),
    ],
)
def test_types_limits_and_defaults(key: str, of: str | None, type: str, default: object) -> None:
    setting = only(key, of)
    assert (setting.type, setting.default, setting.required) == (type, default, False)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", Values("whole number", least=0, most=1 << 63)),
        ("train.minutes", Values("number", null=True, least=0, most=10_000_000)),
        ("train.threads", Values("json")),
        ("train.init", Values("json", null=True)),
        ("model.position", Values("choice", choices=("learned", "rotary", "none", "coupled"))),
        ("model.bias", Values("choice", choices=(True, False))),
        ("model.n_kv_head", Values("whole number", null=True, least=1, most=1_000_000)),
        ("track.name", Values("text", null=True)),
        ("sample.prompts", Values("json")),
    ],
)
def test_what_a_form_may_offer(key: str, values: Values) -> None:
    assert only(key).values == values


def test_a_required_setting_has_no_default() -> None:
    assert only("data.sources[].path", "text").required
    assert only("data").required


def test_a_key_finds_itself_and_a_section_all_below_it() -> None:
    assert [setting.key for setting in find_settings("train.steps")] == ["train.steps"]
    methods = {"align", "evolve", "evolution_strategies", "policy_gradient"}
    assert {setting.of for setting in find_settings("method.tokens")} == methods
    section = [setting.key for setting in find_settings("schedule")]
    assert section[0] == "schedule"
    assert "schedule.warmup" in section
    assert all(key.startswith("schedule") for key in section)
    assert find_settings("data.sources") == find_settings("data.sources[]")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train.step", "did you mean train.steps?"),
        ("train.lr", "did you mean optimizer.lr?"),
        ("zzz", "`nanogrove settings` lists all"),
    ],
)
def test_a_miss_offers_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(PresetError) as caught:
        find_settings(key)
    assert str(caught.value) == f"no setting is called {key!r}; {hint}"
