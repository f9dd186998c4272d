"""Attention with its scores written out, against torch's own kernel."""

import pytest
import torch
import torch.nn.functional as F

from nanogrove.errors import RunError
from nanogrove.model import attention
from nanogrove.model.config import ModelConfig
from nanogrove.model.elementwise import Dropout
from nanogrove.model.gpt import GPT


@pytest.mark.parametrize("groups", [6, 3, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_equal_the_fused_kernel(groups: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = ((4, 6, 10, 8), (4, groups, 10, 8), (4, groups, 10, 8))
    ours = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    weights = torch.randn(4, 6, 10, 8, dtype=dtype)
    y = attention.unfused_attention(ours[0], ours[1], ours[2])
    expected = F.scaled_dot_product_attention(theirs[0], theirs[1], theirs[2], is_causal=True, enable_gqa=True)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(y, expected, atol=tolerance, rtol=tolerance)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    for tensor_of_ours, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(tensor_of_ours.grad, reference.grad, atol=tolerance, rtol=tolerance)


def test_dropout_takes_probabilities_away_and_keeps_their_mean() -> None:
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 1, 6, 4)
    v = torch.ones(1, 1, 6, 4)
    dropout = Dropout(0.5)
    dropout.seed([1], torch.device("cpu"))
    drawn = torch.stack([attention.unfused_attention(q, k, v, dropout=dropout) for _ in range(2000)])
    assert drawn.std() > 0.1
    torch.testing.assert_close(drawn.mean(0), v, atol=0.1, rtol=0)
    torch.testing.assert_close(attention.unfused_attention(q, k, v), v)


def test_a_long_context_takes_the_kernel_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(ModelConfig(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16)).initialize(0)
    tokens = torch.randint(0, 11, (2, 16), generator=torch.Generator().manual_seed(2))
    written_out = model(tokens)
    monkeypatch.setattr(attention, "MAX_SCORES_WRITTEN_OUT", 2 * 2 * 16 * 16 - 1)
    monkeypatch.setattr(attention, "unfused_attention", None)
    torch.testing.assert_close(model(tokens), written_out, atol=1e-5, rtol=1e-5)


def test_on_the_meta_device_the_rotary_table_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic there would import the compiler, at each start of a run."""
    shape = attention.rotary_table(8, 4, 10_000.0).shape
    monkeypatch.setattr(torch, "arange", None)
    with torch.device("meta"):
        table = attention.rotary_table(8, 4, 10_000.0)
    assert (table.shape, table.device.type, table.dtype) == (shape, "meta", torch.float32)


def test_a_context_that_no_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some bytes may claim any context, and its table would take all memory before anything is read."""
    monkeypatch.setattr(attention, "FEW_BYTES", 0)
    monkeypatch.setattr(attention, "free_bytes", lambda: 24 * 1000 * 8)
    assert attention.rotary_table(1000, 8, 10_000.0).shape == (2, 1000, 8)
    with pytest.raises(
        RunError, match=r"^rotary positions of a context of 1,001 tokens take 192 kB, and 192 kB are free"
    ):
        attention.rotary_table(1001, 8, 10_000.0)
    with torch.device("meta"):
        assert attention.rotary_table(1001, 8, 10_000.0).device.type == "meta"
