"""A preset with the key names of MuZero-General is the same preset in ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogrove.config.overrides import resolve
from nanogrove.errors import PresetError
from nanogrove.runs.setup import build
from nanogrove.runs.train import train

THEIRS: dict[str, Any] = {
    "name": "qa_plus_wiki",
    "model": {"hidden_size": 256, "num_layers": 3, "num_heads": 4, "seq_length": 256},
    "train": {"per_gpu_batch_size": 128, "accumulation_steps": 4, "eval_tokens": 2000000},
    "data": {
        "sources": [
            {
                "type": "hf",
                "dataset": "sentence-transformers/natural-questions",
                "split": "train",
                "fields": ["question", "answer"],
                "format": "Q: {question}\nA: {answer}",
            },
            "wikipedia",
        ],
        "mix_strategy": "round_robin",
        "min_text_length": 50,
    },
    "auxiliary": {
        "enable_policy": True,
        "enable_value": True,
        "enable_dynamics": True,
        "enable_span_contrastive": True,
        "policy_kl_weight": 0.05,
        "value_weight": 0.05,
        "dynamics_weight": 0.05,
        "span_contrastive_weight": 0.05,
        "span_mask_fraction": 0.15,
        "span_contrastive_temperature": 0.07,
        "span_l2_normalize": True,
        "enable_adaptive_sources": True,
        "adaptive_interval_tokens": 5000000,
    },
}


def hub_folder(folder: Path, config: str, row: Callable[[int], dict[str, str]]) -> None:
    """A folder of a data set's name, which the `datasets` library reads in place of the hub."""
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(200)))
    configs = json.dumps([{"config_name": config, "data_files": "rows.jsonl"}])
    (folder / "README.md").write_text(f"---\nconfigs: {configs}\n---\n")


def test_their_preset_runs_on_data_sets_laid_out_as_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    question = "is this question number {} about a number, and which"
    hub_folder(
        tmp_path / "sentence-transformers/natural-questions",
        "default",
        lambda n: {"question": question.format(n), "answer": f"it is {n}"},
    )
    hub_folder(
        tmp_path / "wikimedia/wikipedia",
        "20231101.en",
        lambda n: {"title": f"{n}", "text": f"An article of number {n}" + ", which is long enough" * (n % 20)},
    )
    small = ["model.n_embd=16", "model.block_size=32", "train.batch_size=8", "train.accumulation=1", "train.tokens=512"]
    preset = resolve(THEIRS, [*small, "sample.tokens=0", "data.tokenizer=byte", "method.adaptive.interval=256"])
    events = list(train(preset, tmp_path / "run"))
    mixtures = [event.values for event in events if event.kind == "sources"]
    assert mixtures[0]["names"] == ["sentence-transformers/natural-questions", "wikimedia/wikipedia"]
    data = events[0].values["data"]
    assert data["left_out"] == {"shorter than 50 characters": 20}, "articles of one sentence"
    corpus = build(preset).corpus
    text = corpus.tokenizer.decode(corpus.sources[0].read("train", np.array([0]), 100)[0].tolist())  # type: ignore[attr-defined]
    assert text.startswith("Q: is this question number 0 about a number, and which\nA: it is 0")


def test_their_names_are_read() -> None:
    preset = resolve(THEIRS)
    assert (preset.model.n_embd, preset.model.n_layer, preset.model.n_head, preset.model.block_size) == (256, 3, 4, 256)
    assert (preset.train.batch_size, preset.train.accumulation, preset.evaluate.tokens) == (512, 4, 2_000_000)
    assert preset.train.tokens == 100_000_000
    assert preset.method.adaptive.interval == 5_000_000
    heads = {key: value for key, value in THEIRS["auxiliary"].items() if "adaptive" not in key}
    assert heads.items() <= preset.auxiliary.model_dump().items()
    assert preset.data.min_text_length == 50
    assert resolve(preset.model_dump(mode="json")) == preset, "what is stored has our names"
    assert resolve({**THEIRS, "train": {"per_gpu_batch_size": 8, "steps": 5}}).train.tokens is None
    assert resolve(THEIRS, ["train.tokens=1000"]).train.tokens == 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"hidden_size": 8, "n_embd": 8}}, "model.hidden_size and model.n_embd are one setting"),
        ({"train": {"per_gpu_batch_size": "many"}}, "whole numbers"),
        ({"auxiliary": {"enable_policy": True}}, "set enable_value and enable_dynamics"),
        ({"auxiliary": [1]}, "auxiliary: "),
        ({"model": {"hidden_sizes": 8}}, "unknown key model.hidden_sizes"),
    ],
)
def test_names_that_do_not_fit(change: dict, said: str) -> None:
    with pytest.raises(PresetError) as error:
        resolve({**THEIRS, **change})
    assert said in str(error.value)
