"""A model that torch compiles: the C kernels stand aside, without a word of the compiler about how they are asked."""

import warnings

import pytest
import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.native import library


def test_compiling_asks_nothing_that_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its width is of whole vectors, as kernels need, and its compiler traces and generates no code."""

    def asked() -> str | None:
        raise AssertionError("the compiler would trace into a cached function, and warns of that")

    config = ModelConfig(family="llama", vocab_size=5, block_size=8, n_layer=1, n_head=2, n_embd=32)
    model = GPT(config, population=2).initialize(0, 1)
    tokens = torch.zeros(2, 2, 8, dtype=torch.int64)
    expected = model(tokens, tokens)
    torch.compiler.reset()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monkeypatch.setattr(library, "missing", asked)
        compiled = torch.compile(model, backend="eager")(tokens, tokens)
    torch.compiler.reset()
    assert [str(each.message) for each in caught] == []
    torch.testing.assert_close(compiled, expected)
