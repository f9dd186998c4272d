"""Models to begin with: of `transformers`, and of short runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.data.tokenizer import Tokenizer, character_tokenizer
from nanogrove.record.events import Event
from nanogrove.runs.train import train

FAMILIES: dict[str, dict[str, Any]] = {  # of `transformers`: settings of a tiny model
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32,
             "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16,
              "intermediate_size": 24, "max_position_embeddings": 32},
    "qwen3": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 16,
              "head_dim": 8, "intermediate_size": 24, "max_position_embeddings": 32, "tie_word_embeddings": True},
    "nanochat": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 16,
                 "intermediate_size": 64, "max_position_embeddings": 32, "pad_token_id": None},
}  # fmt: skip


def letters(text_file: Path, more: str = "") -> Tokenizer:
    return character_tokenizer([text_file.read_text(encoding="utf-8") + more])


def transformers_folder(family: str, tokenizer: Tokenizer, folder: Path, seed: int = 0) -> Any:
    """A tiny model of random weights, saved by `transformers` with a tokenizer beside it; the model."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, vocab_size=tokenizer.vocab_size, **FAMILIES[family])
    config.bos_token_id = config.eos_token_id = None
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # some of which begin at 0 or 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    return theirs


def run(preset: dict[str, Any], out: Path, resume: bool = False) -> list[Event]:
    return list(train(resolve(preset), out, resume, report=False))
