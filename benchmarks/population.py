"""A population trained as one tensor program, against a loop over its members and against `torch.func.vmap`.

    python benchmarks/population.py

One step is forward, backward, clipping by member and AdamW. The loop trains single models one after another with the
same loop; vmap maps a functional call of the single model over stacked weights and batches. The last column is the
stacked step with a learning rate and a weight decay of each member's own.
"""

import argparse

import torch

from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.model.members import stack
from nanogrove.train.loop import clip_gradients
from side_by_side import Work, in_turn, stepper, tokens

SIZES = ((2, 32, 4, 16, 4.0), (2, 64, 8, 32, 2.0), (4, 128, 12, 64, 1.0))  # layers, width, rows, tokens, asked


def vmapped(config: ModelConfig, members: int, batch) -> Work:
    """The same step through `torch.func.vmap`, with torch's own AdamW over the stacked weights."""
    single = GPT(config).initialize(0)
    weights = stack([GPT(config).initialize(seed).state_dict() for seed in range(members)])
    parameters = {name: weight.requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, fused=True)

    def loss(one: dict[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(single, one, (inputs, targets)).mean()

    over_members = torch.func.vmap(loss)

    def step() -> None:
        over_members(parameters, batch.tokens, batch.targets).sum().backward()
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        clip_gradients(gradients, torch.Size([members]), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    members = options.members
    print(f"{members} members, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        "layers x width, tokens    stacked                        loop/stacked  vmap/stacked  asked   own rates/stacked"
    )
    for layers, width, rows, length, asked in SIZES:
        config = ModelConfig(vocab_size=65, block_size=length, n_layer=layers, n_head=4, n_embd=width, bias=False)
        batch = tokens(rows, length, 65, members)
        singles = [stepper(config, tokens(rows, length, 65)) for _ in range(members)]
        contenders: dict[str, Work] = {
            "stacked": stepper(config, batch, members),
            "loop": lambda singles=singles: [single() for single in singles],  # type: ignore[misc]
            "vmap": vmapped(config, members, batch),
            "own rates": stepper(config, batch, members, by_member=True),
        }
        t = in_turn(contenders, options.rounds)
        loop, vmap, own_rates = (t[name].median / t["stacked"].median for name in ("loop", "vmap", "own rates"))
        ratios = f"{loop:6.2f}  {vmap:6.2f}   >= {asked}   {own_rates:.2f}"
        print(f"{layers} x {width:<4} {rows} x {length:<4}  {t['stacked']}   {ratios}")


if __name__ == "__main__":
    main()
