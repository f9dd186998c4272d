"""Figures: data that stays data, a caption, a legend and a description for those who cannot see them."""

from pathlib import Path

import pytest
from tests.reports.conftest import HOSTILE, Page

from nanogrove.reports.figures import Interval, Mark, forest, heatmap, plot
from nanogrove.reports.lines import FIGURE_POINTS, line, noisy


def read(folder: Path, figure: str) -> Page:
    path = folder / "figure.html"
    path.write_bytes(figure.encode("utf-8", "replace"))
    return Page(path)


@pytest.mark.parametrize("bad", [*HOSTILE, "a name " * 400])
def test_names_stay_text_and_data(tmp_path: Path, bad: str) -> None:
    lines = [*line(bad, [1, 2], [3, 4]), *line(bad, [1, 2], [4, 5], "reference")]
    page = read(tmp_path, plot(bad, bad, bad, lines, marks=[Mark(1.5, bad)]))
    tags = [tag for tag, _ in page.tags]
    assert tags == ["figure", "figcaption", "ul", *["li", "button", "bdi"] * 2, "li", "bdi", "div", "script"]
    assert {name for _, attributes in page.tags for name, _ in attributes} == {
        *("type", "aria-pressed", "class", "role", "aria-label")
    }
    [(_, code)] = page.scripts
    assert "<" not in code, "browsers end a script at more than html.parser does"
    [data] = page.figures()
    assert data["x"] == data["y"] == data["lines"][0]["name"] == bad


def test_a_figure_describes_itself(tmp_path: Path) -> None:
    lines = [*line("train", [1, 2, 3], [3.14159265, None, 1.0]), *line("best", [1], [0.5], "reference")]
    page = read(tmp_path, plot("Loss", "tokens", "nats", lines))
    [label] = [dict(attributes)["aria-label"] for tag, attributes in page.tags if tag == "div"]
    assert label == "Loss: train from 3.142 to 1 at tokens 1 to 3; best 0.5 at tokens 1"


def test_a_single_line_needs_no_legend(tmp_path: Path) -> None:
    assert read(tmp_path, plot("Loss", "tokens", "nats", line("train", [1], [2]))).count("ul") == 0
    page = read(tmp_path, plot("Loss", "tokens", "nats", noisy("train", range(90), [1.0] * 90)))
    assert page.count("button") == 0
    assert "faint: each step; bold: mean of 9" in page.text
    assert [each["style"] for each in page.figures()[0]["lines"]] == ["faint", "plain"]
    assert page.figures()[0]["colours"] == [0, 0], "a faint line has the colour of its mean"


def test_numbers_have_as_many_digits_as_a_screen_shows() -> None:
    figure = plot("Loss", "tokens", "nats", line("train", [1 / 3, 123456789], [[1 / 3, 2 / 3], 1e-17 / 3]))
    assert '"x":[0.3333333,123456789],"y":[0.5,3.3333e-18],"low":[0.33333,3.3333e-18]' in figure


@pytest.mark.parametrize("count", [1, 3, 12, 64])
def test_many_lines_share_the_points_of_a_figure(tmp_path: Path, count: int) -> None:
    lines = [each for n in range(count) for each in line(f"line {n}", range(700), [m % 11 for m in range(700)])]
    [figure] = read(tmp_path, plot("Loss", "tokens", "nats", lines)).figures()
    assert sum(len(each["x"]) for each in figure["lines"]) <= max(FIGURE_POINTS, 60 * count)


def test_a_phase_is_marked_where_there_are_points_on_both_sides(tmp_path: Path) -> None:
    drawn = line("train", [10, 20], [1, 2])
    page = read(tmp_path, plot("Loss", "tokens", "nats", drawn, marks=[Mark(15, "dpo"), Mark(5, "never")]))
    assert page.figures()[0]["marks"] == [15]
    assert page.text.startswith("Lossfrom here: dpo")
    assert "never" not in page.text


def test_a_heat_map_has_a_column_for_each_round_and_leaves_out_what_has_no_place(tmp_path: Path) -> None:
    cells = [(0, 1, 0.5), (None, 1, 0.7), (2, "x", 0.7), (1, 2, float("nan")), (1, 1, None)]
    page = read(tmp_path, heatmap("a<b", "round", "difficulty", cells))
    [spec] = page.figures()
    assert spec["heat"] == {"x": ["0", "1"], "y": ["1", "2"], "z": [[0.5, None], [None, None]]}
    assert "a<b" in page.text
    [one] = read(tmp_path, heatmap("t", "round", "difficulty", [(1, 2, 0.5)])).figures()
    assert one["heat"] == {"x": ["1"], "y": ["2"], "z": [[0.5]]}, "names of columns, and no scale from 0.6 to 1.4"
    assert heatmap("t", "x", "y", [(0, 1, None)]) == heatmap("t", "x", "y", []) == ""


def test_nothing_is_drawn_of_nothing() -> None:
    assert plot("Loss", "tokens", "nats", []) == ""


def test_intervals_are_rows_of_one_figure(tmp_path: Path) -> None:
    rows = [Interval("a", -0.5, -0.75, 0.0, [-0.6, -0.4]), Interval("name" * 10, 0.0, None, None, [0.123456789])]
    page = read(tmp_path, forest("Loss less that of base", "nats", rows))
    [data] = page.figures()
    one, two = data["forest"]
    assert one == {"name": "a", "label": "a", "mean": -0.5, "low": -0.75, "high": 0.0, "points": [-0.6, -0.4]} | {
        "described": "a -0.5 (-0.75 to 0)"
    }
    assert (two["label"], two["low"], two["points"]) == ("namenamena…menamename", None, [0.12346])
    assert f'aria-label="Loss less that of base: a -0.5 (-0.75 to 0); {"name" * 10} 0"' in page.html
    assert forest("Loss", "nats", []) == ""


@pytest.mark.parametrize("bad", HOSTILE)
def test_names_of_intervals_stay_text_and_data(tmp_path: Path, bad: str) -> None:
    page = read(tmp_path, forest(bad, bad, [Interval(bad, 0.0, None, None, [])]))
    assert [tag for tag, _ in page.tags] == ["figure", "figcaption", "div", "script"]
    [(_, code)] = page.scripts
    assert "<" not in code
    assert page.figures()[0]["forest"][0]["name"] == bad


def test_points_are_not_joined_and_an_axis_may_reach_to_zero(tmp_path: Path) -> None:
    page = read(tmp_path, plot("t", "x", "y", [*line("a", [0, 1], [2, 3], "points"), *line("b", [0], [1])], zero=True))
    [data] = page.figures()
    assert (data["lines"][0]["style"], data["zero"]) == ("points", True)
    assert 'class="colour-0 points"' in page.html
