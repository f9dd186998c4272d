"""Every key of every preset refuses every wrong value in one line, in words of its own."""

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from nanogrove.config.catalog import list_presets, read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.errors import PresetError
from nanogrove.settings import SHOWN_CHARACTERS, shown

PRESETS = [resolve(read_preset_file(name)).model_dump(mode="json") for name in list_presets()]
DEEP: list[Any] = []
for _ in range(900):  # more, and json itself would give up
    DEEP = [DEEP]
WRONG: list[Any] = [
    *(None, [], {}, "", "x", "nan", True, 0.5, -1, 1e300, math.nan, math.inf),
    *(-(10**30), 10**30, 10**400, [1], [[None]], {"a": 1}, {"type": "x"}, {"name": 5}),
    *(DEEP, "\ud800", "a\nb", "\x00", "x" * 100_000),
]
JARGON = re.compile(
    r"(?i:input should|pydantic|dictionary|value error|tagged|discriminator|constrained|traceback|unhashable)"
    r"|\b(?:int|str|dict|tuple|NoneType)\b|[a-z]Config\b|__|\n"
)
Path = tuple[str | int, ...]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every key of a preset, down to the first entry of each list."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, part in parts:
        yield from paths(part, (*path, name))


def with_value(preset: Any, path: Path, value: Any) -> Any:
    """The preset with another value under a key."""
    if not path:
        return value
    changed = copy.deepcopy(preset)
    section = changed
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    return changed


def keys() -> dict[tuple[Path, str], Any]:
    """Each key of each method and kind of data once, with a preset that has it."""
    chosen: dict[tuple[Path, str], Any] = {}
    for preset in PRESETS:
        kinds = {"method": preset["method"]["name"], "data": preset["data"].get("type", "text")}
        for path in paths(preset):
            chosen.setdefault((path, kinds.get(str(path[0]), "") if path else ""), preset)
    return chosen


def refusal_of(preset: Any) -> str | None:
    """Why a preset is refused; None where it is not."""
    try:
        resolve(preset)
    except PresetError as error:
        return str(error)
    return None


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_every_wrong_value_of_every_key_is_taken_or_refused_in_one_line(share: int) -> None:
    """Of the wrong values each key gets every third one, other ones than the key before, or all of them."""
    refused = 0
    for number, ((path, _), preset) in enumerate(keys().items()):
        for value in WRONG[number % share :: share]:
            refusal = refusal_of(with_value(preset, path, value))
            if refusal is not None:
                refused += 1
                assert not JARGON.search(refusal), refusal
                assert len(refusal) < 400, refusal
                assert len(path) != 1 or value is DEEP or str(path[0]) in refusal, refusal
    assert refused > 6000 // share


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("sample", None, "sample: must be a section, which is a JSON object, and null was given"),
        ("train", {"steps": [3]}, "train.steps: must be a whole number"),
        ("train", {"threads": "x", "steps": 3}, "train.threads: must be 'auto' or a whole number, and 'x' was given"),
        ("train", {"threads": 9999, "steps": 3}, "train.threads: must be 'auto', or 1024 or less, and 9999 was given"),
        ("train", {"steps": 10**30}, "train.steps: must be below 2^63, and a number of 31 digits was given"),
        ("optimizer", {"eps": math.inf}, "optimizer.eps: must be a finite number, and Infinity was given"),
        ("data", {"sources": [{"type": "csv", "path": 5}]}, "data.sources[0].path: must be text, and 5 was given"),
        ("data", {"sources": [{"type": "csv"}]}, "data.sources[0].path: is missing"),
        ("data", {"sources": [{"type": "csv", "path": "a", "colour": 1}]}, "unknown key data.sources[0].colour"),
        ("data", {"sources": [{"type": "x"}]}, "data.sources[0]: must be an object whose type is one of 'text', 'csv'"),
        ("data", {"sources": [{"path": "x"}]}, "data.sources[0]: must be an object whose type is one of those that"),
        ("method", {"name": "align", "reward": {"terms": {"a": "b"}}}, "method.reward.terms.a: must be a number"),
        (
            "method",
            {"name": "align", "reward": {"length": 10**400}},
            "method.reward.length: must be below 2^63, and a number of 401 digits was given",
        ),
        (
            "method",
            {"name": "align", "reward": {"pattern": "(a+)+$"}},
            "method.reward: pattern '(a+)+$' repeats a",
        ),
        ("name", "a\ud800", r"name: has half of a character, '\ud800', which is not text; take it out"),
        ("sample", {"prompts": DEEP}, "sample.prompts[0]: is nested more than 32 deep; no setting is"),
    ],
)
def test_what_a_refusal_says(section: str, value: Any, message: str) -> None:
    preset = {"data": {"sources": "my.txt"}, "train": {"steps": 10}, section: value}
    with pytest.raises(PresetError) as error:
        resolve(preset)
    assert str(error.value).startswith(message), error.value


def test_a_value_is_shown_as_json_and_cut_where_it_is_long() -> None:
    assert [shown(value) for value in (None, True, "a", math.nan, [1])] == ["null", "true", "'a'", "NaN", "[1]"]
    assert len(shown("x" * 1000)) == SHOWN_CHARACTERS
