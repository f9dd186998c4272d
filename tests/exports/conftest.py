"""What tests of exports share: a tiny run on text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.data.chat.encoding import answer_end
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.exports.source import Source
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.runs.train import train


@pytest.fixture(scope="session")
def llama_run(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Llama's shape, whose context is 64."""
    run = tmp_path_factory.mktemp("exports") / "small run"
    preset = tiny(model={"family": "llama", "block_size": 64, "dropout": 0.0}, train={"steps": 12})
    for _ in train(resolve(preset), run):
        pass
    return run


@pytest.fixture(scope="session")
def random_source() -> Callable[..., Source]:
    """Makes a random model of a vocabulary and of settings; biases and scales are random too, and it ends no text."""

    def make(tokenizer: Tokenizer, **settings: Any) -> Source:
        config = ModelConfig(**{"vocab_size": tokenizer.vocab_size, **settings})
        model, draw = GPT(config).initialize(0), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
                if "q_norm" in name:
                    parameter.mul_(4)  # so that attention is sharp
            (model.embed if model.head is None else model.head).weight[tokenizer.end] = 0
        end = None if tokenizer.chat_template is None else answer_end(tokenizer)
        return Source("random", config, model.state_dict(), tokenizer, end, None, {})

    return make
