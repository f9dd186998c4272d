"""What drafting with multi-token heads saves: tokens a model call, and wall time against plain cached decoding.

    python benchmarks/speculative.py --out FOLDER [--steps 400] [--counts 2 3 4] [--weight 0.3]

Trains `muzero-quick` with no head but multi-token prediction, of 2, 3 and 4 tokens, and continues held-out prompts, on
one thread in float32, both ways in turn: the ratio is plain time over speculative time, the median of the rounds, with
its quartiles. Runs lie in FOLDER; one that is there is only read.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.decoding.loop import Sequences, Strategy, decode
from nanogrove.decoding.plain import plain
from nanogrove.decoding.sampling import Sampler, Sampling
from nanogrove.decoding.speculative import speculative
from nanogrove.language_model import load
from nanogrove.runs.setup import build
from nanogrove.runs.train import train

NEW = 64
CHANGES = {f"enable_{name}": False for name in ("policy", "value", "dynamics", "span_contrastive")}


def counted(strategy: Strategy, calls: list[None]) -> Strategy:
    """The strategy, which appends to `calls` at each call of the model."""

    def steps(rows: Sequences, sampler: Sampler) -> Iterator[None]:
        for step in strategy.steps(rows, sampler):
            calls.append(step)
            yield step

    return replace(strategy, steps=steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--weight", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'tokens':>6}{'batch':>7}{'temperature':>13}{'tokens a call':>15}{'plain / speculative':>25}")
    for count in options.counts:
        values = read_preset_file("muzero-quick")
        values["auxiliary"] |= {**CHANGES, "multi_token_count": count, "multi_token_weight": options.weight}
        values["train"] |= {"steps": options.steps, "threads": 1, "precision": "float32", "compile": False}
        chosen, out = resolve({**values, "sample": {"tokens": 0}}), options.out / f"{count}-tokens"
        if not (out / "report.html").exists():
            for _ in train(chosen, out, resume=(out / "preset.json").exists()):
                pass
        lm, corpus = load(out), build(chosen).corpus
        assert lm.heads is not None
        held_out = next(corpus.eval_batches("validation", 20_000)).tokens
        for batch in (1, 8):
            for temperature in (0.0, 0.8):
                times: dict[str, list[float]] = {"plain": [], "speculative": []}
                transforms = Sampling(temperature=temperature).transforms()
                calls: list[None] = []
                strategies = {"plain": plain(lm.model), "speculative": counted(speculative(lm.model, lm.heads), calls)}
                for number in range(options.rounds + 1):
                    at = torch.arange(number * batch, number * batch + batch) % len(held_out)
                    prompts = held_out[at, :32]
                    for way in times:
                        generator = torch.Generator().manual_seed(number)
                        began = time.perf_counter()
                        sampler = Sampler(transforms, temperature, generator)
                        decode(strategies[way], prompts, new_tokens=NEW, sampler=sampler)
                        times[way].append(time.perf_counter() - began)
                ratios = [p / s for p, s in zip(times["plain"][1:], times["speculative"][1:], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
                print(
                    f"{count:>6}{batch:>7}{temperature:>13}{NEW * (options.rounds + 1) / len(calls):>15.2f}{ratio:>25}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
