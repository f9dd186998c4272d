"""Whole rows share windows."""

import numpy as np

from nanogrove.data.chat.packing import best_fit


def test_rows_are_whole_and_each_has_one_window() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, size=500).tolist()
    windows = best_fit(lengths, 32)
    assert sorted(number for window in windows for number in window) == list(range(500))
    assert all(len(window) == 1 or sum(lengths[n] for n in window) <= 32 for window in windows)
    filled = sum(min(length, 32) for length in lengths)
    assert filled > 0.97 * 32 * len(windows)


def test_each_row_goes_where_it_leaves_least_room() -> None:
    assert best_fit([5, 4, 6, 3, 10], 10) == [[4], [2, 1], [0, 3]]
    assert best_fit([], 4) == []
    assert best_fit([9, 1], 4) == [[0], [1]]
