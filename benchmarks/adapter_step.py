"""What a training step of adapters (LoRA) costs, over a step of all weights, and over the step of `peft`.

    python benchmarks/adapter_step.py

4 layers x 128, 24 rows of 64 tokens, Llama's shape, rank 8 on every map of the blocks, AdamW, float32. `peft` adapts
the same model in `transformers`, whose own step of all weights is timed too. `--tiny` tries the logic at a size for
tests.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F

from nanogrove.data.batch import Batch
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import export_model
from nanogrove.train.loop import fit
from nanogrove.train.lora import Adapter, LoraConfig
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState
from side_by_side import Work, in_turn, tokens

RANK = 8


def ours(model: GPT, batch: Batch, adapted: bool) -> Work:
    """A step of nanogrove, by its loop."""
    adapter = Adapter(model, LoraConfig(rank=RANK), "base").initialize([0]) if adapted else None
    trained = None if adapter is None else adapter.named_modules()
    optimizer = make_optimizer(model, OptimizerConfig(lr=1e-4), trained=trained)
    state = TrainState(model, optimizer, adapter=adapter)
    steps = fit(state, lambda step: batch, next_token, Plan(seed=0, steps=1_000_000_000, lr_factor=lambda step: 1.0))
    return lambda: next(steps)


def theirs(model: Any, batch: Batch) -> Work:
    """A step of torch: forward, backward, clipping, AdamW."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        loss = F.cross_entropy(model(batch.tokens).logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    layers, width, rows, length = (1, 16, 2, 8) if options.tiny else (4, 128, 24, 64)
    config = ModelConfig(
        family="llama", vocab_size=65, block_size=length, n_layer=layers, n_head=4, n_embd=width, n_inner=3 * width
    )
    batch = tokens(rows, length, 65)
    models = [GPT(config).initialize(0) for _ in range(2)]
    with TemporaryDirectory() as folder:
        export_model(models[0].state_dict(), config, Path(folder) / "model")
        whole, base = (AutoModelForCausalLM.from_pretrained(Path(folder) / "model").train() for _ in range(2))
    adapted = get_peft_model(base, PeftConfig(r=RANK, lora_alpha=16, target_modules="all-linear"))
    timings = in_turn(
        {
            "adapters": ours(models[0], batch, adapted=True),
            "all weights": ours(models[1], batch, adapted=False),
            "peft": theirs(adapted, batch),
            "transformers": theirs(whole, batch),
        },
        options.rounds,
    )
    print(f"{layers} x {width}, {rows} x {length} tokens, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, timing in timings.items():
        print(f"  {name:<12} {timing}")
    for name in ("all weights", "peft"):
        print(f"adapters over {name}: {timings['adapters'].median / timings[name].median:.2f}")
    print(f"peft over transformers: {timings['peft'].median / timings['transformers'].median:.2f}")


if __name__ == "__main__":
    main()
