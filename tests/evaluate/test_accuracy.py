"""Figures with standard errors: a share of right answers, and means whose documents are independent."""

import numpy as np
import pytest
import torch

from nanogrove.evaluate.accuracy import with_error


def test_the_error_is_the_textbook_one_where_each_sample_is_a_document() -> None:
    samples = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 50)))
    figures = with_error("gain", samples, torch.arange(50))
    assert figures["gain"] == pytest.approx(samples.mean(1).tolist())
    assert figures["gain_error"] == pytest.approx((samples.std(1) / 50**0.5).tolist())
    single = with_error("right", torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.arange(4))
    assert single == {"right": 0.75, "right_error": pytest.approx((0.75 * 0.25 / 3) ** 0.5)}


def test_the_error_is_that_of_a_bootstrap_over_documents() -> None:
    """Forty documents of one to nine samples that share most of their spread; 4,000 resamplings, 6 % of play."""
    generator = np.random.default_rng(1)
    sizes = generator.integers(1, 10, size=40)
    documents = np.repeat(np.arange(40), sizes)
    samples = generator.normal(size=40)[documents] + 0.2 * generator.normal(size=len(documents))
    sums = np.bincount(documents, samples)
    drawn = generator.integers(40, size=(4000, 40))
    bootstrap = (sums[drawn].sum(1) / sizes[drawn].sum(1)).std()
    figures = with_error("mean", torch.from_numpy(samples), torch.from_numpy(documents))
    assert figures["mean_error"] == pytest.approx(bootstrap, rel=0.06)
    assert figures["mean_error"] > 1.5 * samples.std() / len(samples) ** 0.5, "samples of a document are alike"
