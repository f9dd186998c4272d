"""Graphs in ONNX: the same numbers in torch, in onnxruntime and in transformers.js, of padded batches and of caches."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nanogrove.data.chat.template import PLAIN, spelled_tokens
from nanogrove.data.tokenizer import Tokenizer, byte_tokenizer, character_tokenizer
from nanogrove.errors import PresetError
from nanogrove.exports import onnx
from nanogrove.exports.contract import Dtype
from nanogrove.exports.onnx import FILES, GivenCache, Graph, write
from nanogrove.exports.source import Source
from nanogrove.language_model import LanguageModel
from nanogrove.model.gpt import GPT

SIZES: dict[str, Any] = {"block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 32, "init_scale": 5.0}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "llama": {"family": "llama", "n_kv_head": 2, "bias": True, "head_size": 10},
    "qwen3": {"family": "llama", "qk_norm": True, "n_kv_head": 1},
    "nanochat": {"family": "nanochat"},
}
PROMPTS = ["The quick brown fox", "A", "Be kind"]
TRANSFORMERS_JS = Path(sys.prefix) / "npm/node_modules/@huggingface/transformers/dist/transformers.node.mjs"


@pytest.fixture
def source(random_source: Callable[..., Source]) -> Callable[..., Source]:
    """Makes a random model of a shape of `SHAPES`."""

    def make(shape: str, tokenizer: Tokenizer, **changes: Any) -> Source:
        return random_source(tokenizer, **{**SIZES, **SHAPES[shape], "zero_init": False, **changes})

    return make


def language_model(source: Source) -> LanguageModel:
    model = GPT(source.config)
    model.load_state_dict(dict(source.weights))
    return LanguageModel(model, source.tokenizer)


def padded(tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """The prompts with pads on the left, what is none of them, and positions, each `[B, T]`."""
    rows = [tokenizer.encode(prompt) for prompt in PROMPTS]
    longest = max(map(len, rows))
    tokens = torch.tensor([[tokenizer.end] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return tokens, mask, (mask.cumsum(1) - 1).clamp(min=0)


def check(run: Callable[..., list[Tensor]], source: Source, most: float) -> None:
    """Whether a graph has the logits of the model, prompts side by side, and continues them as it does.

    `run` maps tokens, mask, positions and the list of keys and values, layer by layer, to logits and all of these.
    """
    lm, config = language_model(source), source.config
    tokens, mask, positions = padded(lm.tokenizer)
    past = [torch.zeros(len(PROMPTS), config.kv_heads, 0, config.head_width) for _ in range(2 * config.n_layer)]
    written = []
    for step in range(20):
        logits, *past = run(tokens, mask, positions, past)
        if step == 0:
            for row, prompt in enumerate(PROMPTS):
                ids = lm.tokenizer.encode(prompt)
                expected = lm.model(torch.tensor([ids]))[0]
                assert (logits[row, -len(ids) :] - expected).abs().max() < most
        tokens = logits[:, -1:].argmax(-1)
        written.append(tokens)
        mask, positions = torch.cat([mask, torch.ones_like(tokens)], 1), positions[:, -1:] + 1
    texts = [
        prompt + lm.tokenizer.decode(row) for prompt, row in zip(PROMPTS, torch.cat(written, 1).tolist(), strict=True)
    ]
    assert texts == lm.generate(PROMPTS, tokens=20, temperature=0, precision="float32")


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_the_graph_is_the_model(shape: str, source: Any) -> None:
    exported = source(shape, byte_tokenizer(), init_scale=2.0)
    graph = Graph(language_model(exported).model)

    def run(tokens: Tensor, mask: Tensor, positions: Tensor, past: list[Tensor]) -> list[Tensor]:
        logits, present = graph(tokens, mask, positions, list(zip(past[::2], past[1::2], strict=True)))
        return [logits, *(tensor for pair in present for tensor in pair)]

    check(run, exported, 1e-5)


def test_a_pad_that_sees_nothing_has_no_infinite_score() -> None:
    """The softmax of minus infinities alone is NaN in onnxruntime, and a key of NaN spoils the rows that skip it."""
    keys = torch.zeros(1, 1, 0, 4)
    cache = GivenCache([(keys, keys)], torch.tensor([[0, 1, 1]]), torch.tensor([[-1, 0, 1]]))
    assert cache.mask.isfinite().all()
    assert (cache.mask == 0).tolist() == [[[[False, False, False], [False, True, False], [False, True, True]]]]


def test_what_one_file_does_not_hold_is_refused(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = source("llama", byte_tokenizer())
    size = 4 * sum(weight.numel() for weight in exported.weights.values())
    monkeypatch.setattr(onnx, "MAX_BYTES", size - 1)
    with pytest.raises(PresetError, match=r"export it --dtype f16, or --to transformers$"):
        write(exported, "f32", tmp_path)
    monkeypatch.setattr(onnx, "MAX_BYTES", size // 2 - 1)
    for dtype in FILES:
        with pytest.raises(PresetError, match=r"export it --to transformers$"):
            write(exported, dtype, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_shape_of_no_family_is_refused(source: Any, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="no transformers family has position=none"):
        write(source("llama", byte_tokenizer(), position="none"), "f32", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most"), [("f32", 1e-5), ("f16", 0.1)])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_onnxruntime_computes_the_same(shape: str, dtype: Dtype, most: float, source: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = source(shape, byte_tokenizer(), init_scale=2.0)
    write(exported, dtype, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / FILES[dtype], providers=["CPUExecutionProvider"])
    inputs = {each.name: each.shape for each in session.get_inputs()}
    kept = ["batch_size", exported.config.kv_heads, "past_sequence_length", exported.config.head_width]
    assert inputs["attention_mask"] == ["batch_size", "past_sequence_length + sequence_length"]
    assert inputs["past_key_values.1.value"] == kept
    names = [name for name in inputs if name.startswith("past_key_values")]

    def run(tokens: Tensor, mask: Tensor, positions: Tensor, past: list[Tensor]) -> list[Tensor]:
        read = {
            name: tensor.numpy().astype(np.float32 if dtype == "f32" else np.float16)
            for name, tensor in zip(names, past, strict=True)
        }
        given = {"input_ids": tokens.numpy(), "attention_mask": mask.numpy(), "position_ids": positions.numpy()}
        return [torch.from_numpy(output).float() for output in session.run(None, given | read)]

    check(run, exported, most)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_js_writes_the_same(shape: str, source: Any, tmp_path: Path) -> None:
    if shutil.which("node") is None or not TRANSFORMERS_JS.exists():
        pytest.skip("needs node, and transformers.js, which `make npm` installs")
    messages = None
    tokenizer = character_tokenizer(PROMPTS)
    if shape == "llama":
        tokenizer = byte_tokenizer().for_chat(PLAIN, spelled_tokens(PLAIN))
        messages = [{"role": "user", "content": "Hi <b>"}]
    exported = source(shape, tokenizer, init_scale=2.0)
    (tmp_path / "model").mkdir()
    write(exported, "f32", tmp_path / "model")
    asked: dict[str, Any] = {"library": str(TRANSFORMERS_JS), "folder": str(tmp_path), "name": "model", "dtype": "fp32"}
    asked |= {"prompts": PROMPTS, "tokens": 20, "messages": messages}
    command = ["node", str(Path(__file__).with_name("generate.mjs"))]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["texts"] == language_model(exported).generate(PROMPTS, tokens=20, temperature=0, precision="float32")
    assert answer["prompt"] == (messages and "<|user|>Hi <b><|end|><|assistant|>")
