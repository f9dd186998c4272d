"""Where two JSON values differ: by dotted keys, lists of objects item by item, other lists as wholes."""

import pytest

from nanogrove.json_difference import MISSING, differences, shown


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, [("a.c", 2, 3)]),
        ({"a": 1}, {"b": 2}, [("b", MISSING, 2), ("a", 1, MISSING)]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a", [1, 2], [1, 3])]),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, [("a.1.b", 2, 3)]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}, {"c": 2}]}, [("a.1", MISSING, {"c": 2})]),
        ({"a": {}}, {"a": None}, [("a", {}, None)]),
    ],
)
def test_differences_by_dotted_key(theirs: object, ours: object, expected: list[object]) -> None:
    assert list(differences(theirs, ours)) == expected


def test_a_path_to_begin_with() -> None:
    assert list(differences({"a": 1}, {"a": 2}, "preset")) == [("preset.a", 1, 2)]
    assert list(differences(1, 2, "seed")) == [("seed", 1, 2)]


def test_a_value_is_shown_as_json_and_a_missing_one_as_such() -> None:
    assert [shown(value) for value in ("nothing", None, MISSING)] == ['"nothing"', "null", "not set"]
