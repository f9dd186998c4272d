"""Muon against singular value decompositions in float64, and its polynomials against Chebyshev's theorem."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.optim import muon
from nanogrove.train.optim.muon import MARGIN, POLYNOMIALS, orthogonalise
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer

POWERS = np.array([1, 3, 5, 7, 9])
JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
LOW, STRETCH, LENGTH = 0.0022, 1.001, 0.9  # where they begin, by what all but the last are stretched, where they lead
SHAPES = [(16, 16), (128, 128), (20, 20), (8, 40), (7, 33), (20, 30), (32, 128), (1, 5)]


def all_polynomials(values: Tensor, polynomials: Sequence[Sequence[float]] = POLYNOMIALS) -> Tensor:
    """What the polynomials make of singular values."""
    for polynomial in polynomials:
        values = sum((c * values ** (2 * n + 1) for n, c in enumerate(polynomial)), torch.zeros_like(values))
    return values


def by_svd(matrices: Tensor, few_bits: bool = False) -> Tensor:
    """The polynomials of `matrices [N, rows, columns]`, by their singular values in float64."""
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    size = MARGIN**0.5 * (values**8).sum(-1, keepdim=True) ** 0.125
    if few_bits:
        return left @ (all_polynomials(values / values.norm(dim=-1, keepdim=True), JORDAN)[..., None] * right)
    return left @ (all_polynomials(values / size)[..., None] * right)


def momenta(shape: tuple[int, int], rank: int | None = None) -> Tensor:
    """Three matrices whose singular values fall as those of momenta do, of the size that gradients have."""
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(3, *shape, dtype=torch.float64), full_matrices=False)
    values = 1e-4 * torch.logspace(0, -2.5, values.shape[-1], dtype=torch.float64).expand_as(values).clone()
    values[:, rank:] = 0 if rank is not None else values[:, rank:]
    return left @ (values[..., None] * right)


def test_each_polynomial_is_the_best_of_its_kind_where_the_one_before_leaves_the_values() -> None:
    """An odd one of degree 9 is, if its distance from 1 is greatest six times, on alternate sides (Chebyshev)."""
    low, high = LOW, 1.0
    for number, coefficients in enumerate(POLYNOMIALS):
        polynomial = np.array(coefficients)
        last = number == len(POLYNOMIALS) - 1
        x = np.geomspace(low, high, 20_001)
        error = x[:, None] ** POWERS @ (polynomial / LENGTH if last else polynomial * STRETCH**POWERS) - 1
        turns = 1 + np.flatnonzero(np.diff(error)[:-1] * np.diff(error)[1:] <= 0)
        extrema = error[[0, *turns, -1]]
        distance = np.abs(error).max()
        assert extrema == pytest.approx(distance * np.array([-1, 1, -1, 1, -1, 1]), abs=3e-3)
        low, high = low**POWERS @ polynomial, 1 + distance
    values = torch.logspace(np.log10(LOW), 0, 10_000, dtype=torch.float64)
    assert all_polynomials(values).min() > 0.71
    assert all_polynomials(values).max() < 1.09
    small = torch.linspace(0, LOW, 1000, dtype=torch.float64)
    assert (all_polynomials(small).diff() > 0).all()
    assert (all_polynomials(small) <= 370 * small).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-3), (torch.bfloat16, 0.8)]
)
def test_matrices_have_the_singular_vectors_of_their_decomposition_and_the_polynomials_values(
    shape: tuple[int, int], precision: torch.dtype, tolerance: float
) -> None:
    for matrices in (momenta(shape), momenta(shape, rank=2), torch.randn(3, *shape) * 1e3):
        result = orthogonalise(matrices.to(torch.promote_types(precision, torch.float32)), precision)
        assert torch.linalg.matrix_norm(result - by_svd(matrices, precision == torch.bfloat16), 2).max() < tolerance
        assert torch.linalg.svdvals(result.double()).max() < (1.25 if precision == torch.bfloat16 else 1.1)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 8), (8, 40)])
def test_zeros_stay_zero_and_what_is_almost_zero_fades(shape: tuple[int, int], precision: torch.dtype) -> None:
    assert not orthogonalise(torch.zeros(2, *shape), precision).any()
    assert orthogonalise(torch.randn(2, *shape) * 1e-14, precision).abs().max() < 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_has_the_bits_that_it_has_alone(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(7, *shape)
    together = orthogonalise(matrices)
    for number in range(7):
        assert torch.equal(together[number : number + 1], orthogonalise(matrices[number : number + 1].clone()))


def test_both_ways_to_multiply_give_the_same() -> None:
    matrices = momenta((12, 64))
    torch.testing.assert_close(muon._by_gram_matrix(matrices), muon._by_matrix(matrices), atol=1e-9, rtol=0)


def reference(weight: Tensor, gradients: list[Tensor], lr: float, momentum: float) -> Tensor:
    """Muon on one matrix `[rows, columns]`, in float64."""
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        buffer = momentum * buffer + (1 - momentum) * gradient
        nesterov = momentum * buffer + (1 - momentum) * gradient
        weight = weight - lr * max(1, weight.shape[0] / weight.shape[1]) ** 0.5 * by_svd(nesterov[None])[0]
    return weight


def test_each_fused_map_is_treated_as_a_matrix_of_its_own() -> None:
    model = GPT(ModelConfig(vocab_size=31, n_layer=1, n_embd=16, n_head=2, bias=False, norm="rmsnorm")).initialize(0)
    model = model.double()
    config = OptimizerConfig(name="muon", lr=0.1, momentum=0.9, weight_decay=0.0)
    optimizer = make_optimizer(model, config, torch.float64)
    torch.manual_seed(0)
    for name, rows in (("attention.qkv", 16), ("mlp.up", 64), ("mlp.down", 16)):
        weight = model.get_parameter(f"blocks.0.{name}.weight")
        parts = [part.clone() for part in weight.detach().split(rows)]
        gradients = [torch.randn_like(weight) for _ in range(3)]
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.set_rate(1.0)
            optimizer.step()
        for number, part in enumerate(parts):
            expected = reference(part, [g.split(rows)[number] for g in gradients], 0.1, 0.9)
            torch.testing.assert_close(weight.detach().split(rows)[number], expected, atol=1e-7, rtol=0)
        optimizer.zero_grad()
