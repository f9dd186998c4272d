"""Tokens a second that a population generates as one tensor program, over its members one after another.

    python benchmarks/decoding_members.py

16 members of 2 layers x 64, each with one prompt of 8 tokens and 128 new ones. `--tiny` tries the logic at a size for
tests.
"""

import argparse

import torch

from nanogrove.decoding.plain import generate
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import stack
from side_by_side import in_turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    members, layers, width, new_tokens = (3, 1, 16, 8) if options.tiny else (16, 2, 64, 128)
    config = ModelConfig(vocab_size=65, block_size=256, n_layer=layers, n_head=4, n_embd=width, bias=False)
    singles = [GPT(config).initialize(seed).eval() for seed in range(members)]
    population = GPT(config, members).eval()
    population.load_state_dict(stack([single.state_dict() for single in singles]))
    prompts = torch.randint(0, 65, (members, 1, 8))

    def at_once(greedy: bool = False) -> torch.Tensor:
        return generate(population, prompts, new_tokens=new_tokens, greedy=greedy)

    def one_after_another(greedy: bool = False) -> torch.Tensor:
        pairs = zip(singles, prompts, strict=True)
        return torch.stack([generate(model, prompt, new_tokens=new_tokens, greedy=greedy) for model, prompt in pairs])

    equal = (at_once(greedy=True) == one_after_another(greedy=True)).float().mean()
    timings = in_turn({"at once": at_once, "one after another": one_after_another}, options.rounds, warmup=1)
    print(f"{members} members of {layers} x {width}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"of their likeliest tokens {equal:.1%} are equal")
    for name, timing in timings.items():
        print(f"  {name:<18} {members * new_tokens / timing.median:8.0f} tokens a second   {timing}")
    ratio = timings["one after another"].median / timings["at once"].median
    print(f"at once over one after another: {ratio:.2f}, asked >= 3, aim 6")


if __name__ == "__main__":
    main()
