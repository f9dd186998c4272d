"""How much longer decoding takes where a reward model steers, and what best-of-n costs instead.

    python benchmarks/decoding_rewards.py

4 layers x 256, context 256, vocabulary 512, random weights, 64 new tokens after a prompt of 16, at batch 1 and 16,
with 5 and 20 candidates a step; asked is a slow-down below 3. The reward model has the same size, or 2 layers x 128: a
seventh of the parameters, near the published ratio (124 M beside 774 M). Both models are packed, as by
`LanguageModel.generate`.
"""

import argparse
from collections.abc import Callable

import torch

from nanogrove.decoding.plain import generate
from nanogrove.decoding.steering import TOP_K, model_score, reward_augmented
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.packing import packed_weights
from nanogrove.train.precision import decoding
from side_by_side import in_turn

PROMPT = 16


def plain(lm: GPT, prompt: torch.Tensor, new: int, dtype: torch.dtype, copies: int = 1) -> None:
    """Samples `copies` continuations of each prompt."""
    generate(lm, prompt.repeat_interleave(copies, 0), new_tokens=new, dtype=dtype)


def steered(lm: GPT, judge: GPT, prompt: torch.Tensor, new: int, dtype: torch.dtype, k: int) -> None:
    """Samples with a reward model."""
    with packed_weights(judge, k * len(prompt), dtype):
        transforms = [reward_augmented(model_score(judge), 5.0, k)]
        generate(lm, prompt, new_tokens=new, transforms=transforms, dtype=dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    options = parser.parse_args()
    sizes = {"n_layer": options.layers, "n_head": 4, "n_embd": options.width, "block_size": 256, "vocab_size": 512}
    small = {**sizes, "n_layer": max(options.layers // 2, 1), "n_embd": options.width // 2}
    lm = GPT(ModelConfig(**sizes)).initialize(0).to(options.device)
    judges = {
        name: GPT(ModelConfig(**size, scalar=True)).initialize(1).to(options.device)
        for name, size in {"same": sizes, "small": small}.items()
    }
    precision = decoding(lm, options.precision).format  # as `generate` does
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    print(
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}, medians and ratios"
    )
    for batch in (1, 16):
        prompt = torch.randint(0, 512, (batch, PROMPT), device=options.device)
        contenders: dict[str, Callable[[], object]] = {
            "plain": lambda p=prompt: plain(lm, p, options.tokens, dtype),
            **{
                f"{name} judge, k = {k}": lambda p=prompt, k=k, judge=judge: steered(
                    lm, judge, p, options.tokens, dtype, k
                )
                for name, judge in judges.items()
                for k in (5, TOP_K)
            },
            "best of 8, drawn only": lambda p=prompt: plain(lm, p, options.tokens, dtype, 8),
        }
        timed(f"batch {batch}", contenders, options.rounds)


def timed(title: str, contenders: dict[str, Callable[[], object]], rounds: int) -> None:
    """Prints each one's median and its ratio to the first, rounds in turn so that a busy machine hits all alike."""
    timings = in_turn(contenders, rounds, warmup=1)
    first = next(iter(timings.values())).median
    print(title)
    for name, timing in timings.items():
        print(f"  {name:<24} {timing.median:8.3f} s {timing.median / first:6.2f}   {timing}")


if __name__ == "__main__":
    main()
