"""Folders for `transformers`, read by it: padded batches, pads, templates, and the way back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.runs.train import train


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_padded_batch_is_continued_as_each_text_alone(llama_run: Path, tmp_path: Path, dtype: str) -> None:
    nanogrove.export(llama_run, "transformers", tmp_path / "out", dtype)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    prompts = ["The", "Quiet old river", "The lamp sings"]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    assert not batch["attention_mask"].all()
    texts = tokenizer.batch_decode(
        model.generate(**batch, max_new_tokens=20, do_sample=False), skip_special_tokens=True
    )
    ours = nanogrove.from_transformers(tmp_path / "out")
    assert texts == ours.generate(prompts, tokens=20, temperature=0, precision="float32")
    assert (tokenizer.pad_token, model.config.pad_token_id) == ("<|endoftext|>", None)


def test_the_way_back_is_exact(llama_run: Path, tmp_path: Path) -> None:
    assert nanogrove.to_transformers(llama_run, tmp_path / "out") == "llama"
    ours, back = nanogrove.load(llama_run), nanogrove.from_transformers(tmp_path / "out")
    state = back.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.model.state_dict().items())
    assert back.tokenizer.to_json() == ours.tokenizer.to_json()


def test_gpt2_says_its_context_as_other_readers_ask(tiny: Any, tmp_path: Path) -> None:
    for _ in train(resolve(tiny(train={"steps": 1})), tmp_path / "run"):
        pass
    nanogrove.export(tmp_path / "run", "transformers", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["n_ctx"] == config["n_positions"] == 16
    nanogrove.from_transformers(tmp_path / "out")
