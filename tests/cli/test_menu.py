"""The menu: every preset stands in one group, the default last; what is not understood is asked again."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nanogrove.cli.menu import ask_overrides, ask_preset, printed_groups
from nanogrove.config.catalog import GROUPS, OWN_TEXT, QUICKSTART, list_presets


def console(*answers: str, width: int = 80) -> tuple[Console, io.StringIO]:
    """A console of a terminal, at which these answers are typed."""
    file, rest = io.StringIO(), iter(answers)
    shown = Console(file=file, width=width)

    def typed(prompt: Any) -> str:
        shown.print(prompt, end="")
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    shown.input = typed  # type: ignore[method-assign, assignment]
    return shown, file


def test_every_preset_is_in_one_group_and_the_default_comes_last() -> None:
    names = [name for group in GROUPS for name in group.names]
    assert sorted(names) == sorted(list_presets())
    assert names[-1] == QUICKSTART


def test_what_a_preset_needs_is_in_the_title_of_its_group() -> None:
    titles = {name: group.title for group in GROUPS for name in group.names}
    for name, description in list_presets().items():
        assert ("GPU" in titles[name]) == ("needs a GPU" in description or "100 M tokens" in description), name


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("numbered", [True, False])
def test_names_are_aligned_and_no_line_is_too_long(width: int, numbered: bool) -> None:
    shown, file = console(width=width)
    names = printed_groups(shown, numbered=numbered)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len({line.index(name) for name in names for line in lines if name in line.split()[:2]}) == 1


def typed(*answers: str) -> Iterator[str]:
    yield from answers


@pytest.mark.parametrize(
    ("answers", "chosen"), [(("",), QUICKSTART), (("2",), "b"), ((" b ",), "b"), (("9", "0", "quikstart", "1"), "a")]
)
def test_a_number_a_name_or_enter_and_all_else_is_asked_again(answers: tuple[str, ...], chosen: str) -> None:
    shown, file = console(*answers)
    assert ask_preset(shown, ["a", "b"]) == chosen
    assert file.getvalue().count("Train which?") == len(answers)
    assert ("did you mean quickstart?" in file.getvalue()) == ("quikstart" in answers)


def test_text_of_ones_own_is_asked_for_until_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a b.txt"
    path.write_text("text")
    shown, file = console("", "nowhere.txt", f"'{path}'")
    assert ask_overrides(shown, OWN_TEXT) == [f'data.sources="{path}"']
    assert "nowhere.txt: no such file or folder" in file.getvalue()
    assert ask_overrides(shown, QUICKSTART) == []


def test_the_end_of_input_leaves(tmp_path: Path) -> None:
    with pytest.raises(EOFError):
        ask_preset(console()[0], ["a"])
    with pytest.raises(EOFError):
        ask_overrides(console("")[0], OWN_TEXT)
