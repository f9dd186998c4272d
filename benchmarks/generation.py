"""Tokens a second of sampled generation, against nanoGPT, `transformers` and llama.cpp.

    python benchmarks/generation.py --nanogpt PATH --llama-cpp

6 layers x 384, context 256, vocabulary 65, 128 new tokens after a prompt of 8, at batch 16 and 1; then the time a
token takes early and late in the context, and a text in pieces beside a whole one. Ours in float32, as the peers, and
in the format that `auto` takes here. llama.cpp has the weights of ours as a GGUF file, in float32 and as q8_0; first
both must give the same probabilities.
Its threads wait by spinning, so let nothing else run meanwhile. `--tiny` tries the logic at a size for tests.
"""

import argparse
import contextlib
import string
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import llama_cpp
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.decoding.plain import generate
from nanogrove.decoding.program import one_token
from nanogrove.generation import DrawOptions
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.packing import packed_weights
from nanogrove.train.precision import decoding
from side_by_side import Timing, Work, in_turn, nanogpt, quietly, timing_of

SIZES = {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
CHARACTERS = string.ascii_letters + string.digits + ". "  # 64, and the end of a text
TINY = {"block_size": 64, "n_layer": 1, "n_head": 1, "n_embd": 32}


class Row(NamedTuple):
    """A ratio that the script prints: tokens a second of the first contender over those of the second, at a batch."""

    ours: str
    peer: str
    batch: int
    asked: float
    aim: float | None = None


def rows(fastest: str) -> tuple[Row, ...]:
    return (
        Row("nanogrove float32", "llama.cpp f32", 1, 0.75, 0.9),
        Row("nanogrove float32", "llama.cpp f32", 16, 1.3, 1.6),
        Row("nanogrove int8", "llama.cpp q8_0", 1, 0.5, 0.8),
        Row(f"nanogrove {fastest}", "nanoGPT", 16, 20),
        Row(f"nanogrove {fastest}", "nanoGPT", 1, 6),
        Row(f"nanogrove {fastest}", "transformers", 16, 2),
        Row(f"nanogrove {fastest}", "transformers", 1, 1.5),
    )


class LlamaCppInTurn:
    """One of llama.cpp's contenders: work that keeps what its own clock says, which is kinder to it than ours."""

    def __init__(self, process: llama_cpp.LlamaCpp, prompts: Tensor, new_tokens: int) -> None:
        self.process, self.prompts, self.new_tokens = process, prompts, new_tokens
        self.seconds: list[float] = []

    def __call__(self) -> None:
        self.seconds.append(self.process.generate(self.prompts, self.new_tokens))


@contextlib.contextmanager
def llama_cpps(model: GPT, prompts: Tensor, new_tokens: int) -> Iterator[dict[str, LlamaCppInTurn]]:
    """llama.cpp with the weights of `model` in float32 and as q8_0. Ends the program where it is not the same model."""
    expected = model(prompts[:1])[0, -1].log_softmax(-1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        contenders = {}
        for weights in llama_cpp.DTYPES:
            path = llama_cpp.write_gguf(model, Path(folder), weights)
            process = processes.enter_context(llama_cpp.LlamaCpp(path, len(prompts), model.config.block_size))
            log_probs = process.log_probs(prompts[0])
            difference = (log_probs - expected).abs().max().item()
            if weights == "f32" and not difference <= 1e-3:
                raise SystemExit(f"llama.cpp computes another model: log-probabilities differ by {difference:.1e}")
            divergence = (expected.exp() * (expected - log_probs)).sum().item()
            print(
                f"llama.cpp {weights}: log-probabilities within {difference:.1e}, KL divergence {divergence:.1e} nats"
            )
            contenders[f"llama.cpp {weights}"] = LlamaCppInTurn(process, prompts, new_tokens)
        yield contenders


def race(ours: GPT, peers: dict[str, Work], prompts: Tensor, new_tokens: int, options: Any) -> dict[str, Timing]:
    """Times all contenders in turn on the same prompts."""
    fastest = decoding(ours).format  # what `nanogrove generate` takes unless told
    with llama_cpps(ours, prompts, new_tokens) if options.llama_cpp else contextlib.nullcontext({}) as servers:
        contenders: dict[str, Work] = {
            f"nanogrove {name}": lambda name=name: generate(
                ours, prompts, new_tokens=new_tokens, dtype=getattr(torch, name)
            )
            for name in dict.fromkeys(("float32", fastest, "int8"))
        }
        t = in_turn({**contenders, **peers, **servers}, options.rounds, warmup=1)
        return t | {name: timing_of(server.seconds[1:]) for name, server in servers.items()}  # the first warms up


def early_and_late(model: GPT) -> tuple[float, float]:
    """Seconds that a token takes at 20-60 and at 208-248 of a context of 256."""
    cache, token = model.cache(1), torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode(), packed_weights(model, 1):
        model.hidden(torch.zeros(1, 8, dtype=torch.int64), cache)
        program, seconds = one_token(model, 1), []
        for _ in range(240):
            began = time.perf_counter()
            model.logits(model.hidden(token[None], cache) if program is None else program.read(token, cache))
            seconds.append(time.perf_counter() - began)
    early, late = (sorted(part)[20] for part in (seconds[10:50], seconds[-40:]))
    return early, late


def streamed_and_whole(model: GPT, new_tokens: int, rounds: int) -> tuple[Timing, Timing]:
    """Times of a text of `new_tokens` as `stream` gives it in pieces, and as `generate` gives it at once."""
    lm = LanguageModel(model, character_tokenizer([CHARACTERS]))
    lm.tokenizer.end = -1  # nothing ends a text
    options: DrawOptions = {"precision": "float32", "temperature": 1.0}
    work: dict[str, Work] = {
        "stream": lambda: "".join(lm.stream("a", new_tokens, **options)),
        "generate": lambda: lm.generate("a", new_tokens, **options),
    }
    times = in_turn(work, rounds, warmup=1)
    return times["stream"], times["generate"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; left out without")
    parser.add_argument("--llama-cpp", action="store_true", help="llama.cpp too; needs pip install 'nanogrove[bench]'")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    if options.llama_cpp:
        llama_cpp.require()
    sizes, new_tokens = (TINY, 8) if options.tiny else (SIZES, 128)
    ours = GPT(ModelConfig(vocab_size=65, bias=False, **sizes)).initialize(0).eval().requires_grad_(False)
    nanochat = GPT(ModelConfig(vocab_size=65, family="nanochat", **sizes)).initialize(0).eval()
    layers, heads, width, context = (sizes[name] for name in ("n_layer", "n_head", "n_embd", "block_size"))
    shape: dict[str, Any] = {"n_positions": context, "n_layer": layers, "n_head": heads, "n_embd": width}
    hub = GPT2LMHeadModel(GPT2Config(vocab_size=65, **shape, bos_token_id=None, eos_token_id=None)).eval()
    theirs = None
    if options.nanogpt:
        peer = nanogpt(options.nanogpt)
        theirs = quietly(lambda: peer.GPT(peer.GPTConfig(vocab_size=65, dropout=0.0, bias=False, **sizes))).eval()

    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {layers} x {width}, {new_tokens} new tokens")
    timings: dict[int, dict[str, Timing]] = {}
    for batch in (16, 1):
        prompts = torch.randint(0, 65, (batch, 8))
        peers: dict[str, Work] = {
            "nanogrove nanochat": lambda p=prompts: generate(nanochat, p, new_tokens=new_tokens),
            "transformers": lambda p=prompts: hub.generate(p, max_new_tokens=new_tokens, do_sample=True, top_k=0),
        }
        if theirs is not None:
            peers["nanoGPT"] = lambda p=prompts: theirs.generate(p, new_tokens)
        timings[batch] = race(ours, peers, prompts, new_tokens, options)
        print(f"batch {batch}, tokens a second")
        for name, timing in timings[batch].items():
            print(f"  {name:<20} {batch * new_tokens / timing.median:8.0f}   {timing}")

    for row in rows(decoding(ours).format):
        t = timings[row.batch]
        if row.peer in t:
            aim = f", aim {row.aim}" if row.aim else ""
            ratio = t[row.peer].median / t[row.ours].median
            print(f"{row.ours} over {row.peer}, batch {row.batch}: {ratio:.2f}, asked {row.asked}{aim}")
    streamed, whole = streamed_and_whole(ours, new_tokens, options.rounds)
    per_token = 1e6 * (streamed.median - whole.median) / new_tokens
    print(
        f"stream beside generate, batch 1: {streamed.median / whole.median:.2f} times, {per_token:.0f} µs per token "
        f"more; stream {streamed}, generate {whole}"
    )
    if not options.tiny:
        early, late = early_and_late(ours)
        print(
            f"a token at 20-60 takes {1000 * early:.2f} ms, at 208-248 {1000 * late:.2f} ms: {late / early:.2f} times"
        )


if __name__ == "__main__":
    main()
