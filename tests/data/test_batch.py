"""What is done to a batch is done to each of its tensors, those of a method too."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nanogrove.data.batch import Batch

B, T = 7, 3


def batch() -> Batch:
    tokens = torch.arange(B * T).view(B, T)
    extra = {"row": torch.arange(B), "old_log_prob": torch.rand(B, T), "state": torch.rand(B, T, 2)}
    return Batch(tokens, tokens + 1, tokens % 2 == 0, tokens.float(), torch.arange(B) % 2, extra)


def tensors(batch: Batch) -> dict[str, Tensor]:
    fields = {name: getattr(batch, name) for name in ("tokens", "targets", "mask", "weight", "source")}
    return {**fields, **batch.extra}


@pytest.mark.parametrize("population", [None, 2])
@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda batch: batch.split(3)[1], [3, 4, 5]),
        (lambda batch: batch.split(3)[2], [6]),
        (lambda batch: batch.part(1, 2), [3, 4, 5, 6]),
        (lambda batch: batch.take(torch.tensor([5, 0])), [5, 0]),
        (lambda batch: batch.to("cpu"), list(range(B))),
    ],
)
def test_every_tensor_keeps_the_same_rows(
    change: Callable[[Batch], Batch], rows: list[int], population: int | None
) -> None:
    given = batch().expand(population)
    changed = tensors(change(given))
    assert changed.keys() == tensors(given).keys()
    for name, tensor in tensors(given).items():
        expected = tensor[rows] if population is None else tensor[:, rows]
        assert torch.equal(changed[name], expected), name


def test_members_see_the_batch_and_each_its_own() -> None:
    alone = batch()
    shown = alone.expand(3)
    for name, tensor in tensors(alone).items():
        assert tensors(shown)[name].shape == (3, *tensor.shape)
        assert torch.equal(tensors(shown.member(2))[name], tensor)
        assert torch.equal(tensors(shown.members(slice(1, 3)))[name], tensor.expand(2, *tensor.shape))
    assert alone.member(1) is alone
    assert alone.members(slice(0, 1)) is alone
    assert shown.expand(3) is shown
    assert alone.part(0, 1) is alone


def test_a_uniform_batch_weighs_1_and_is_of_source_0() -> None:
    given = batch()
    uniform = Batch.uniform(given.tokens, given.targets, given.mask)
    assert uniform.weight.eq(1).all()
    assert uniform.weight.dtype == torch.float32
    assert uniform.source.eq(0).all()
    assert not uniform.extra
