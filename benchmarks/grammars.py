"""Random grammars: how fast texts are sampled and their exact next-token probabilities computed.

    python benchmarks/grammars.py

Multiply-adds are counted in two ways. The plain count is one v³ product a node, (2^L − 1)·v³ a sequence. The sweeps do
(2^L − L − 1)·v³: no products where a node's children are tokens, nor where nothing follows. Both are set against a
square float64 matrix product, timed in turn with the rest.
"""

import argparse

import torch

from nanogrove.synthetic import RandomHierarchyModel, RandomLanguageModel
from side_by_side import Work, in_turn

PRODUCT = 1024  # rows of the square product


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=4096, help="sampled, and scored, at a time")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    count = options.sequences
    print(f"{count} sequences at a time, {torch.get_num_threads()} threads, torch {torch.__version__}")
    large, small, synonyms = RandomLanguageModel(128, 5), RandomLanguageModel(64, 3), RandomHierarchyModel(32, 8, 2, 3)
    tokens, other = small.sample(count), synonyms.sample(count)
    square = torch.randn(PRODUCT, PRODUCT, dtype=torch.float64)
    contenders: dict[str, Work] = {
        "sample v=128 L=5": lambda: large.sample(count),
        "score v=64 L=3": lambda: small.next_token_log_probs(tokens),
        "sample hierarchy v=32 m=8 L=3": lambda: synonyms.sample(count),
        "score hierarchy v=32 m=8 L=3": lambda: synonyms.next_token_log_probs(other),
        "float64 product": lambda: square @ square,
    }
    t = in_turn(contenders, options.rounds)
    for name, timing in t.items():
        print(f"{name:30} {timing}")
    for name, grammar, asked in (
        ("sample v=128 L=5", large, "   >= 1,000,000"),
        ("sample hierarchy v=32 m=8 L=3", synonyms, ""),
    ):
        print(f"{name:30} {count * grammar.T / t[name].median:14,.0f} tokens/s{asked}")
    for name, asked in (("score v=64 L=3", "   >= 2,000"), ("score hierarchy v=32 m=8 L=3", "")):
        print(f"{name:30} {count / t[name].median:14,.0f} sequences/s{asked}")
    ceiling = PRODUCT**3 / t["float64 product"].median
    nodes, v = 2**small.L, small.v
    for counted, products in (("one product a node", nodes - 1), ("products done", nodes - small.L - 1)):
        rate = count * products * v**3 / t["score v=64 L=3"].median
        print(f"{counted:30} {rate / 1e9:14.2f} G multiply-adds/s, {100 * rate / ceiling:.0f} % of the product's")


if __name__ == "__main__":
    main()
