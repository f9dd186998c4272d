"""Lines: gaps, thinning that keeps what can be seen, means that are not pulled by a beginning, and bars."""

import pytest

from nanogrove.reports.lines import FIGURE_POINTS, LINE_POINTS, bars, line, links, noisy, thinned


def test_a_long_line_is_thinned_and_keeps_its_extremes_gaps_and_ends() -> None:
    y: list[float | None] = [float(n % 7) for n in range(100_000)]
    y[40_000], y[60_001], y[70_000] = 1000.0, -1000.0, None
    [whole] = line("train", range(100_000), y)
    drawn = thinned(whole, LINE_POINTS)
    kept = dict(zip(drawn["x"], drawn["y"], strict=True))
    assert LINE_POINTS / 2 < len(kept) <= LINE_POINTS < FIGURE_POINTS
    assert drawn["x"] == sorted(drawn["x"])
    assert (drawn["x"][0], drawn["x"][-1]) == (0, 99_999)
    assert (kept[40_000], kept[60_001], kept[70_000]) == (1000.0, -1000.0, None)
    assert all(kept[n] == y[int(n)] for n in kept)


def test_what_is_not_a_number_is_a_gap_and_a_point_without_x_is_left_out() -> None:
    [drawn] = line("a", [1, None, 3, 4, True], [1.0, 2.0, float("nan"), "high", 5.0])
    assert (drawn["x"], drawn["y"]) == ([1, 3, 4], [1.0, None, None])
    assert line("a", [1, 2], [None, float("inf")]) == line("a", [], []) == []


def test_a_short_line_is_not_smoothed() -> None:
    assert noisy("train", range(59), [1.0] * 59) == line("train", range(59), [1.0] * 59)


def test_a_noisy_line_is_faint_below_its_mean() -> None:
    y = [10.0, 8.0, *(5.0 + (n % 2) for n in range(298))]
    faint, mean = noisy("train", range(300), y)
    assert (faint["style"], faint["y"]) == ("faint", y)
    assert (mean["name"], mean["window"]) == ("train", 11)
    assert mean["y"][0] == 10.0, "a fast beginning is not pulled up by what comes before, nor down"
    assert mean["y"][1] == pytest.approx((10 + 8 + 5) / 3)
    assert all(5.3 < value < 5.7 for value in mean["y"][20:] if value is not None)


def test_the_mean_keeps_gaps_and_leaves_infinite_spikes_where_they_are() -> None:
    y: list[float | None] = [1.0] * 300
    y[100], y[200] = None, 1e299
    _, mean = noisy("train", range(300), y)
    assert mean["y"][100] is None
    assert [mean["y"][n] for n in (50, 99, 150, 250, 299)] == [1.0] * 5


def test_a_population_is_smoothed_with_its_band() -> None:
    faint, mean = noisy("train", range(80), [[1.0, 2.0, 6.0]] * 80)
    assert (mean["low"][40], mean["y"][40], mean["high"][40]) == (1.0, 2.0, 6.0)
    assert "low" not in faint
    assert len(noisy("train", range(5000), [[1.0, 2.0]] * 5000)[1]["high"]) <= LINE_POINTS + 1


def test_bars_lie_between_their_edges() -> None:
    [drawn] = bars("texts", [0, 1, 3], [5, 7])
    assert (drawn["x"], drawn["width"], drawn["y"], drawn["style"]) == ([0.5, 2.0], [1, 2], [5, 7], "bars")


@pytest.mark.parametrize("edges", [None, "ab", [0, 1], [0, 1, float("nan")], [0, 1, "<b>"]])
def test_a_damaged_histogram_is_not_drawn(edges: object) -> None:
    assert bars("texts", edges, [5, 7]) == []


def test_segments_with_an_end_that_is_no_number_are_left_out() -> None:
    [drawn] = links("all", [((0, 1), (1, 2)), ((0, None), (1, 2))])
    assert (drawn["x"], drawn["y"]) == ([0, 1, 1], [1, 2, None])
    assert links("all", [((0, "x"), (1, 2))]) == []
