"""Values as text: digits that say something, and none that hide it."""

import pytest

from nanogrove.reports.values import decimal, duration, escaped, quantity, rounded, short


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2.34567, "2.3457"),
        (0, "0.0000"),
        (0.00001234, "1.23e-05"),
        (-7e9, "-7e+09"),
        ([3.0, 1.0, 2.0], "2.0000 (1.0000 to 3.0000)"),
        ([2.0, 2.0], "2.0000"),
        ([None, float("nan")], "n/a"),
        ("2.0", "n/a"),
        (True, "n/a"),
        (10**400, "n/a"),
    ],
)
def test_a_quantity(value: object, shown: str) -> None:
    assert quantity(value) == shown


def test_few_digits() -> None:
    assert (decimal(0.5, 2), decimal(123.456, 0)) == ("0.50", "123")
    assert (rounded(4.852030263919617), rounded(123456), rounded(1 / 3, 3)) == (4.852, 123456, 0.333)


def test_counts_and_times() -> None:
    assert [short(value) for value in (None, 950, 12_345, 999_960, 4.56e6)] == ["n/a", "950", "12.3 k", "1 M", "4.56 M"]
    assert [duration(value) for value in (None, 5, 65, 7500)] == ["n/a", "5.0 s", "1 min 5 s", "2 h 5 min"]


def test_text_is_safe_between_tags_and_in_attributes() -> None:
    assert escaped("<a href='x'>\"&") == "&lt;a href=&#x27;x&#x27;&gt;&quot;&amp;"
