"""The tensors of a model are known without the model, for every family and option."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from nanogrove.model.config import ModelConfig
from nanogrove.model.families.table import FAMILIES
from nanogrove.model.gpt import GPT
from nanogrove.model.size import flops_per_token, parameter_count, parameter_shapes

OPTIONS: tuple[dict[str, Any], ...] = (
    *({"family": name} for name in FAMILIES if name != "qwen3"),
    {"scalar": True, "within_documents": True},
    {"memory_tokens": 2, "memory_segment": 8},
    {"position": "coupled", "coupled_offset": 5},
    {"token_shift": True, "embed_norm": True, "qk_norm": True, "n_kv_head": 1, "tie_embeddings": False},
    {"family": "llama", "n_kv_head": 1, "head_size": 12, "qk_norm": True, "bias": True},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("population", [None, 3])
def test_names_shapes_and_count_are_those_of_the_model(options: dict[str, Any], population: int | None) -> None:
    config = ModelConfig(vocab_size=11, block_size=16, n_layer=3, n_head=2, n_embd=16, **options)
    model = GPT(config.model_copy(update={"document_mark": 0, "coupled_tokens": (1, 2)}), population)
    assert parameter_shapes(config, population) == {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert parameter_count(config) == model.parameter_count()
    assert flops_per_token(config) == model.flops_per_token(config.block_size)


@pytest.mark.parametrize("heads", [{"n_head": 1}, {"n_head": 1000, "head_size": 1000}])
def test_a_model_that_no_machine_can_hold_is_counted(heads: dict[str, int]) -> None:
    config = ModelConfig(vocab_size=100_000_000, block_size=100_000_000, n_layer=2000, n_embd=1_000_000, **heads)
    assert parameter_count(config) > 2000 * 12 * 10**12
    assert flops_per_token(config) > 6 * 2000 * 12 * 10**12


def test_a_model_with_wide_heads_has_as_many_parameters_as_it_is_known_for() -> None:
    qwen3 = {"family": "llama", "qk_norm": True, "tie_embeddings": True, "vocab_size": 151936, "block_size": 40960}
    sizes = {"n_layer": 28, "n_head": 16, "n_kv_head": 8, "head_size": 128, "n_embd": 1024, "n_inner": 3072}
    config = ModelConfig(**qwen3, **sizes)
    assert parameter_count(config) == 596_049_920
    with torch.device("meta"):
        model = GPT(config)
    of_tokens = model.flops_per_token(11) - model.flops_per_token(10)
    assert of_tokens == 12 * 28 * 16 * 128


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_head": 3}, "n_embd 16 is not divisible by n_head 3"),
        ({"n_head": 3, "head_size": 5}, "rotary positions need an even head size, and head_size is 5"),
        ({"n_head": 16}, "rotary positions need an even head size, and n_embd / n_head is 1"),
        ({"n_head": 1001, "head_size": 1000}, "n_head 1001 times head_size 1000 is more than 1,000,000"),
        ({"n_head": 4, "n_kv_head": 3, "head_size": 8}, "n_head 4 is not divisible by n_kv_head 3"),
    ],
)
def test_sizes_that_do_not_fit_each_other(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(family="llama", n_embd=16, **sizes)
