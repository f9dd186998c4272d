"""Tokens a second of sampled generation, against nanoGPT's `generate` and the cached one of `transformers`.

    python benchmarks/generation.py --nanogpt PATH

6 layers x 384, context 256, vocabulary 65, 128 new tokens after a prompt of 8, at batch 16 and 1; then the time a
token takes early and late in the context. Ours in float32, as the peers, and in the format that `auto` takes here.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from nanogrove.decoding.plain import generate
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.train.precision import decoding
from side_by_side import in_turn, nanogpt, quietly

NEW = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    peer = nanogpt(options.nanogpt)
    sizes = {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
    theirs = quietly(lambda: peer.GPT(peer.GPTConfig(vocab_size=65, dropout=0.0, bias=False, **sizes))).eval()
    shape: dict[str, Any] = {"vocab_size": 65, "n_positions": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
    hub = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None)).eval()
    ours = {
        family: GPT(ModelConfig(vocab_size=65, family=family, **sizes)).initialize(0) for family in ("gpt2", "nanochat")
    }
    fastest = decoding(ours["gpt2"]).format  # what `nanogrove generate` takes unless told
    dtype = torch.bfloat16 if fastest == "bfloat16" else torch.float32
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; tokens a second, and ratios to it")
    for batch, asked in ((16, "20 and 2"), (1, "5 and 1.5")):
        prompt = torch.randint(0, 65, (batch, 8))
        contenders = {
            f"nanogrove, {fastest}": lambda p=prompt: generate(ours["gpt2"], p, new_tokens=NEW, dtype=dtype),
            "nanogrove gpt2": lambda p=prompt: generate(ours["gpt2"], p, new_tokens=NEW),
            "nanogrove nanochat": lambda p=prompt: generate(ours["nanochat"], p, new_tokens=NEW),
            "nanoGPT": lambda p=prompt: theirs.generate(p, NEW),
            "transformers": lambda p=prompt: hub.generate(p, max_new_tokens=NEW, do_sample=True, top_k=0),
        }
        t = in_turn(contenders, options.rounds, warmup=1)
        nanogrove_rate = t[f"nanogrove, {fastest}"].median
        print(f"batch {batch}, asked {asked} times the peers")
        for name, timing in t.items():
            rate = batch * NEW / timing.median
            print(f"  {name:<20} {rate:8.0f}   {timing.median / nanogrove_rate:6.2f}   {timing}")
    cache, model = ours["gpt2"].cache(1), ours["gpt2"]
    with torch.inference_mode():
        model.hidden(torch.zeros(1, 8, dtype=torch.int64), cache)
        seconds = []
        for _ in range(240):
            began = time.perf_counter()
            model.logits(model.hidden(torch.zeros(1, 1, dtype=torch.int64), cache))
            seconds.append(time.perf_counter() - began)
    early, late = (sorted(part)[20] for part in (seconds[10:50], seconds[-40:]))
    print(f"a token at 20-60 takes {1000 * early:.2f} ms, at 208-248 {1000 * late:.2f} ms: {late / early:.2f} times")


if __name__ == "__main__":
    main()
