"""What it costs a population that each member has the bits of the same model trained alone.

    python benchmarks/member_alone.py

A step as it is, against the same step in plain torch: biases added inside the product, scales and biases summed in one
sum, activations, products and the optimizer's kernels on tensors as they lie, one norm for all of a member's gradient,
and, with rates by member, one kernel for all members that writes directions. Contenders in turn, medians of 30.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from nanogrove.model import elementwise, layers
from nanogrove.model.config import ModelConfig
from nanogrove.train import loop as fit
from nanogrove.train.optim import adamw, update_rule
from nanogrove.train.optim.muon import apply_update_
from nanogrove.train.optim.update_rule import Alike, Kernel, Numbers, Update, UpdateSettings
from side_by_side import Work, in_turn, stepper, tokens

kernel_alone = update_rule._apply
SIZES = ((2, 32, 4, 16), (2, 64, 8, 32), (4, 128, 12, 64))  # layers, width, rows, tokens


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, packed: object = None) -> Tensor:
    rows = x.flatten(1, -2)
    product = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
    return product.view(*x.shape[:-1], weight.shape[1])


def per_member(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(vector.shape[0], *[1] * (like.dim() - 2), vector.shape[1])


def all_at_once(update: Update, settings: Sequence[UpdateSettings]) -> list[Alike]:
    return [Alike(0, update.members, update.lr, update.weight_decay, settings[0])]  # type: ignore[arg-type]


def by_member(kernel: Kernel, update: Update, alike: Alike) -> None:
    if not isinstance(update.lr, Tensor):
        return kernel_alone(kernel, update, alike)
    directions = [torch.zeros_like(weight) for weight in update.weights]
    lr = update.lr.to(directions[0])
    adamw.kernel(Numbers(directions, update.gradients, update.moments, update.steps, 1.0, 0.0), alike.settings)
    for weight, direction in zip(update.weights, directions, strict=True):
        apply_update_(weight, direction, lr, lr * update.weight_decay)
    return None


@contextmanager
def plain() -> Iterator[None]:
    """Within, a population computes as if nobody asked for equal bits."""
    with ExitStack() as held:
        for owner, name, instead in (
            (layers, "linear", linear),
            (layers, "per_member", per_member),
            (elementwise, "_in_full_registers", lambda function, x: function(x)),
            (update_rule, "REGISTER", 1),
            (update_rule, "alike_members", all_at_once),
            (update_rule, "_apply", by_member),
            (fit, "_norm", lambda x: torch.linalg.vector_norm(x, dim=-1)),
        ):
            held.enter_context(patch.object(owner, name, instead))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.members} members, {options.threads} threads, torch {torch.__version__}, AdamW")
    print("family    layers x width, tokens  rates      as it is                       over plain torch")
    for family in ("gpt2", "nanochat"):
        for n_layer, width, rows, length in SIZES:
            config = ModelConfig(
                family=family, vocab_size=65, block_size=length, n_layer=n_layer, n_head=4, n_embd=width
            )
            for own_rates in (False, True):
                batch = tokens(rows, length, 65, options.members)
                contenders = {
                    name: stepper(config, batch, options.members, by_member=own_rates) for name in ("exact", "plain")
                }

                def plainly(step: Work = contenders["plain"]) -> None:
                    with plain():
                        step()

                t = in_turn({"exact": contenders["exact"], "plain": plainly}, options.rounds)
                shape = f"{n_layer} x {width:<4} {rows} x {length}"
                ratio = t["exact"].median / t["plain"].median
                print(
                    f"{family:<9} {shape:<23} {'own' if own_rates else 'common':<7} {t['exact']}   {ratio:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
