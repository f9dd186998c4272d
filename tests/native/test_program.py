"""Products with weights in panels, against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.native import library
from nanogrove.native.program import Activation, panels

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=library.missing() or "")
FORMATS = [torch.float32, torch.bfloat16, torch.int8]
ACTIVATIONS: list[Activation] = ["linear", "gelu", "relu2"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """What a weight is in a format, in float64."""
    if dtype != torch.int8:
        return weight.to(dtype).double()
    scale = weight.abs().amax(-1, keepdim=True) / 127
    return (weight / scale).round().double() * scale


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    y = x.double().flatten(weight.dim() - 2, -2) @ weight.mT
    y = y if bias is None else y + bias.double().unsqueeze(-2)
    y = {"linear": lambda y: y, "gelu": lambda y: F.gelu(y, approximate="tanh"), "relu2": lambda y: F.relu(y) ** 2}[
        activation
    ](y)
    return y.view(*x.shape[:-1], weight.shape[-2])


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=2e-6 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("population", [None, 1, 3])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(("outputs", "inner"), [(1, 1), (16, 16), (17, 5), (40, 24), (23, 33)])
def test_products_are_those_of_float64(outputs: int, inner: int, dtype: torch.dtype, population: int | None) -> None:
    leading = () if population is None else (population,)
    weight, bias = normal(*leading, outputs, inner), normal(*leading, outputs, seed=1)
    packed, exact = panels(weight, dtype), rounded(weight, dtype)
    for rows in range(1, 15):
        x = normal(*leading, rows, inner, seed=rows)
        for activation in ACTIVATIONS:
            close(packed.product(x, bias, activation), plain(x, exact, bias, activation))
    close(packed.product(x[..., :6, :].reshape(*leading, 2, 3, inner), None, "linear"),
          plain(x[..., :6, :].reshape(*leading, 2, 3, inner), exact, None, "linear"))  # fmt: skip


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_row_s_bits_do_not_depend_on_other_rows_nor_threads(dtype: torch.dtype) -> None:
    threads, packed = torch.get_num_threads(), panels(normal(800, 700), dtype)  # enough weights for several threads
    x, bias = normal(14, 700, seed=1), normal(800, seed=2)
    together = packed.product(x, bias, "gelu")
    alone = torch.cat([packed.product(x[row : row + 1], bias, "gelu") for row in range(14)])
    assert torch.equal(together, alone)
    try:
        for count in (2, 3):
            torch.set_num_threads(count)
            assert torch.equal(packed.product(x, bias, "gelu"), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_member_has_the_bits_of_its_own_panels(dtype: torch.dtype) -> None:
    weight, bias, x = normal(3, 20, 12), normal(3, 20, seed=1), normal(3, 5, 12, seed=2)
    together = panels(weight, dtype).product(x, bias, "relu2")
    for member in range(3):
        assert torch.equal(together[member], panels(weight[member], dtype).product(x[member], bias[member], "relu2"))


def test_int8_is_within_half_a_step_of_a_weight_and_takes_outputs_of_zeros() -> None:
    weight = normal(19, 8)
    weight[3] = 0.0
    read = panels(weight, torch.int8).product(torch.eye(8), None, "linear").T
    assert bool(((read - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 * 1.0001).all())
    assert not read[3].any()


def test_no_rows_are_no_product() -> None:
    assert panels(normal(5, 8), torch.float32).product(torch.empty(0, 8), None, "linear").shape == (0, 5)


def test_the_default_format_is_not_that_of_a_step() -> None:
    packed, x = panels(normal(5, 8), torch.float32), normal(3, 8, seed=1)
    expected = packed.product(x, None, "linear")
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(packed.product(x, None, "linear"), expected)
    finally:
        torch.set_default_dtype(torch.float32)
