"""What rounding weights costs in loss: formats of decoding, of a page with its model, and of `gguf` where it is there.

    python benchmarks/rounded_loss.py RUN TEXT

The mean loss in nats per token of the last 100,000 characters of a text, under a run's best checkpoint, window by
window of the model's context. Weights of exports, in f16 and q8_0, are rounded by the `gguf` package and multiplied by
us; 32 weights of q8_0 share a scale.
"""

import argparse
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

import nanogrove
from nanogrove.exports.browser import Weights, is_rounded
from nanogrove.exports.contract import Dtype
from nanogrove.exports.gguf import FORMAT, stored_as
from nanogrove.model.gpt import GPT
from nanogrove.model.packing import Packable, packed_weights
from nanogrove.native.program import in_int8

CHARACTERS = 100_000


@contextmanager
def as_exported(model: GPT, dtype: Dtype) -> Iterator[None]:
    """Within, the weights of all maps and of the token table are those that a GGUF file of this dtype holds."""
    import gguf

    maps = [module for module in model.modules() if isinstance(module, Packable) and module is not model.position]
    kept = [module.weight.data for module in maps]
    for module, weight in zip(maps, kept, strict=True):
        kind = gguf.GGMLQuantizationType[stored_as("", tuple(weight.shape), dtype).upper()]
        rounded = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
        module.weight.data = torch.from_numpy(rounded)
    try:
        yield
    finally:
        for module, weight in zip(maps, kept, strict=True):
            module.weight.data = weight


@contextmanager
def as_in_a_page(model: GPT, weights: Weights) -> Iterator[None]:
    """Within, the weights are those that a report with its model holds in this format."""
    kept = {name: weight.data for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        if is_rounded(name, weight) and weights == "int8":
            whole, scale = in_int8(weight.data)
            weight.data = whole * scale[:, None]
        elif is_rounded(name, weight):
            weight.data = weight.data.half().float()
    try:
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.data = kept[name]


@torch.no_grad()
def loss(model: GPT, tokens: torch.Tensor) -> float:
    """Mean nats per token, of windows of the model's context."""
    length = model.config.block_size
    windows = tokens[: len(tokens) // (length + 1) * (length + 1)].view(-1, length + 1)
    total = 0.0
    for rows in windows.split(16):
        logits = model.logits(model.hidden(rows[:, :-1]))
        total += F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
    return total / windows[:, 1:].numel()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("text", type=Path)
    options = parser.parse_args()
    lm = nanogrove.load(options.run)
    tokens = torch.tensor(lm.tokenizer.encode(options.text.read_text(encoding="utf-8")[-CHARACTERS:]))
    lm.model.eval()
    exact = loss(lm.model, tokens)
    print(f"float32      {exact:.5f} nats per token, {len(tokens):,} tokens")
    ways = {name: packed_weights(lm.model, 16, getattr(torch, name)) for name in ("bfloat16", "int8")}
    ways |= {"page float16": as_in_a_page(lm.model, "float16"), "page int8": as_in_a_page(lm.model, "int8")}
    if importlib.util.find_spec("gguf"):
        ways |= {f"export {dtype}": as_exported(lm.model, dtype) for dtype in FORMAT.dtypes[1:]}
    for name, rounded in ways.items():
        with rounded:
            print(f"{name:<12} {loss(lm.model, tokens) - exact:+.5f}")


if __name__ == "__main__":
    main()
