"""The debiased calibration error: against loops over pairs, a perfect model, and models whose error is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nanogrove.evaluate.calibration import calibration_error, equal_mass, outcomes, reliability, summary
from nanogrove.evaluate.calibration_error import MAX_BLOCKS, blocks, debiased_error

ROW = 50  # predictions of a sequence


def predictions(count: int, seed: int, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Confidence and outcomes of `count` tokens drawn from a model's probabilities, its logits then multiplied."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(count, 32, generator=generator)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return outcomes(factor * logits, targets, 1.0)[:, 1:3].T.contiguous().unbind(0)  # type: ignore[return-value]


def measured(count: int, seed: int, factor: float = 1.0) -> tuple[float, tuple[float, float, float]]:
    """The binned ECE and the debiased one, over bins of equal mass."""
    sure, right = predictions(count, seed, factor)
    bins = equal_mass(sure)
    error = debiased_error(right - sure, bins, blocks(count // ROW).repeat_interleave(ROW))
    assert error is not None
    return calibration_error(reliability(sure, right, bins)), error


def test_the_error_is_its_equation() -> None:
    generator = np.random.default_rng(0)
    gap, bins, unit = generator.normal(0.1, 1, 90), generator.integers(0, 4, 90), generator.integers(0, 7, 90)
    square = 0.0
    for one in range(4):
        pairs = [
            gap[i] * gap[j] for i in range(90) for j in range(90) if bins[i] == bins[j] == one and unit[i] != unit[j]
        ]
        square += (bins == one).mean() * sum(pairs) / len(pairs)
    error = debiased_error(torch.tensor(gap), torch.tensor(bins), torch.tensor(unit))
    assert error is not None
    assert error[0] == pytest.approx(math.copysign(math.sqrt(abs(square)), square), rel=1e-9)
    assert error[1] <= error[0] <= error[2]


@pytest.mark.parametrize(("count", "draws", "bias"), [(1000, 150, 0.03), (10_000, 30, 0.01), (100_000, 3, 0.0025)])
def test_a_perfect_model_has_no_error_and_the_binned_one_says_it_has(count: int, draws: int, bias: float) -> None:
    binned, debiased = zip(*(measured(count, seed) for seed in range(draws)), strict=True)
    assert min(np.mean(binned), np.median(binned)) > bias
    squares = [math.copysign(error**2, error) for error, _, _ in debiased]
    scale = np.std(squares) / math.sqrt(draws) if draws > 9 else bias**2
    assert abs(np.mean(squares)) < 3 * scale
    assert abs(np.mean([error for error, _, _ in debiased])) < bias / 2
    assert np.mean([low <= 0 <= high for _, low, high in debiased]) >= 0.95


@pytest.mark.parametrize("factor", [0.7, 1.2, 1.6])
def test_the_interval_covers_an_error_that_is_known(factor: float) -> None:
    """That of logits multiplied by a factor: the gap between confidence and the true probability, in each bin."""
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(200_000, 32, generator=generator)
    sure, best = (factor * logits).softmax(-1).max(-1)
    bins = equal_mass(sure.double())
    gap = torch.bincount(bins, logits.softmax(-1).gather(-1, best[:, None])[:, 0] - sure) / torch.bincount(bins)
    true = float(gap.square().mean().sqrt())
    errors = [measured(4000, seed, factor)[1] for seed in range(60)]
    assert np.mean([error for error, _, _ in errors]) == pytest.approx(true, rel=0.05)
    assert np.mean([low <= true <= high for _, low, high in errors]) >= 0.88  # .95 less three deviations of 60 draws


def test_what_the_predictions_of_a_unit_share_is_no_error() -> None:
    """Each outcome four times over: taken for independent ones they look miscalibrated, as units they do not."""
    alone, together = list[float](), list[float]()
    for seed in range(40):
        sure, right = (column.repeat_interleave(4) for column in predictions(120, seed))
        bins, unit = equal_mass(sure), torch.arange(60).repeat_interleave(8)
        for errors, units in ((alone, torch.arange(480)), (together, unit)):
            error = debiased_error(right - sure, bins, units)
            assert error is not None
            errors.append(math.copysign(error[0] ** 2, error[0]))
    assert np.mean(alone) > 5 * np.std(alone) / math.sqrt(40)
    assert abs(np.mean(together)) < 3 * np.std(together) / math.sqrt(40)


@pytest.mark.parametrize("rows", [1, 2, 199, 200, 201, 777])
def test_blocks_are_of_neighbours_and_of_one_size(rows: int) -> None:
    block = blocks(rows)
    sizes = torch.bincount(block)
    assert len(sizes) == min(rows, MAX_BLOCKS)
    assert sizes.max() - sizes.min() <= 1
    assert (block.diff() >= 0).all()


def test_one_unit_says_nothing_and_the_same_data_say_the_same() -> None:
    sure, right = predictions(100, 0)
    assert debiased_error(right - sure, equal_mass(sure), torch.zeros(100, dtype=torch.int64)) is None
    figures = torch.stack([sure, sure, right, right], -1)
    assert summary(figures, torch.zeros(100, dtype=torch.int64))["ece_debiased"] is None
    assert measured(1000, 3) == measured(1000, 3)
