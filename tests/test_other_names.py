"""A preset with the key names of MuZero-General is the same preset in ours."""

from typing import Any

import pytest

from nanogrove.errors import PresetError
from nanogrove.preset import resolve

THEIRS: dict[str, Any] = {
    "name": "qa_plus_wiki",
    "model": {"hidden_size": 256, "num_layers": 3, "num_heads": 4, "seq_length": 256},
    "train": {"per_gpu_batch_size": 128, "accumulation_steps": 4, "eval_tokens": 2000000},
    "data": {"sources": ["python-stdlib"], "mix_strategy": "round_robin", "min_text_length": 50},
    "auxiliary": {
        "enable_policy": False,
        "policy_kl_weight": 0.05,
        "enable_adaptive_sources": True,
        "adaptive_interval_tokens": 5000000,
    },
}


def test_their_names_are_read() -> None:
    preset = resolve(THEIRS)
    assert (preset.model.n_embd, preset.model.n_layer, preset.model.n_head, preset.model.block_size) == (256, 3, 4, 256)
    assert (preset.train.batch_size, preset.train.accumulation, preset.evaluate.tokens) == (512, 4, 2_000_000)
    assert preset.train.tokens == 100_000_000
    assert preset.method["adaptive"]["interval"] == 5_000_000
    assert preset.data.min_text_length == 50
    assert resolve(preset.model_dump(mode="json")) == preset, "what is stored has our names"
    assert resolve({**THEIRS, "train": {"per_gpu_batch_size": 8, "steps": 5}}).train.tokens is None
    assert resolve(THEIRS, ["train.tokens=1000"]).train.tokens == 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"hidden_size": 8, "n_embd": 8}}, "model.hidden_size and model.n_embd are one setting"),
        ({"train": {"per_gpu_batch_size": "many"}}, "whole numbers"),
        ({"auxiliary": {"enable_value": True}}, "auxiliary.enable_value: there are no auxiliary heads yet"),
        ({"auxiliary": [1]}, "auxiliary: a section is a JSON object"),
        ({"model": {"hidden_sizes": 8}}, "unknown key model.hidden_sizes"),
    ],
)
def test_names_that_do_not_fit(change: dict, said: str) -> None:
    with pytest.raises(PresetError) as error:
        resolve({**THEIRS, **change})
    assert said in str(error.value)
