"""What a training step with Muon costs over the same step with AdamW.

    python benchmarks/muon_step.py

4 layers x 128, 24 rows of 64 tokens, GPT-2's shape, in float32 and in the format that `auto` takes here, which is also
that of Muon's products. `--tiny` tries the logic at a size for tests.
"""

import argparse

import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.autotune import auto_precision
from side_by_side import in_turn, stepper, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    layers, width, rows, length = (1, 16, 2, 8) if options.tiny else (4, 128, 24, 64)
    config = ModelConfig(vocab_size=65, block_size=length, n_layer=layers, n_head=4, n_embd=width, bias=False)
    batch = tokens(rows, length, 65)
    flops = float(rows * length * GPT(config).flops_per_token(length))
    fastest = auto_precision(flops, torch.device("cpu")).format
    print(f"{layers} x {width}, {rows} x {length} tokens, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for precision in dict.fromkeys(("float32", fastest)):
        timings = in_turn(
            {
                "adamw": stepper(config, batch, precision=precision),
                "muon": stepper(config, batch, precision=precision, name="muon", lr=0.02, adamw_lr=0.005),
            },
            options.rounds,
        )
        for name, timing in timings.items():
            print(f"  {precision} {name:<6} {timing}")
        ratio = timings["muon"].median / timings["adamw"].median
        print(f"Muon over AdamW, {precision}: {ratio:.3f}, asked <= 1.15, aim 1.08")


if __name__ == "__main__":
    main()
