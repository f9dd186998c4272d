"""The tensors of a model are known without the model, for every family and option."""

from typing import Any

import pytest

from nanogrove.model.families.table import FAMILIES
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.model.size import parameter_count, parameter_shapes

OPTIONS: tuple[dict[str, Any], ...] = (
    *({"family": name} for name in FAMILIES if name != "qwen3"),
    {"scalar": True, "within_documents": True},
    {"memory_tokens": 2, "memory_segment": 8},
    {"token_shift": True, "embed_norm": True, "qk_norm": True, "n_kv_head": 1, "tie_embeddings": False},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("population", [None, 3])
def test_names_shapes_and_count_are_those_of_the_model(options: dict[str, Any], population: int | None) -> None:
    config = ModelConfig(vocab_size=11, block_size=16, n_layer=3, n_head=2, n_embd=16, **options)
    model = GPT(config.model_copy(update={"document_mark": 0}), population)
    assert parameter_shapes(config, population) == {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert parameter_count(config) == model.parameter_count()


def test_a_model_that_no_machine_can_hold_is_counted() -> None:
    config = ModelConfig(vocab_size=100_000_000, block_size=100_000_000, n_layer=2000, n_embd=1_000_000, n_head=1)
    assert parameter_count(config) > 2000 * 12 * 10**12
