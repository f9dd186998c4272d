"""What a checkpoint keeps of policy gradients beside the reference, and whether it is of the run."""

from collections.abc import Mapping
from typing import NamedTuple, NotRequired

import torch
from pydantic import FiniteFloat
from torch import Tensor
from typing_extensions import TypedDict

from nanogrove.data.corpus import Corpus
from nanogrove.methods.policy_gradient.config import Config, num_steps
from nanogrove.methods.policy_gradient.samples import Samples
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

PREFIX = "samples/"  # of kept tensors that are not weights of the reference


class Kept(TypedDict):
    """`TrainState.method_state`: the reward of samples before the first update, of each member of a population."""

    reward_before: NotRequired[FiniteFloat | list[FiniteFloat]]
    reward_before_error: NotRequired[FiniteFloat | list[FiniteFloat]]


class Rollout(NamedTuple):
    """Samples of one step, the `reward [*P, B]` of each, and the log-probabilities `[*P, B, W]` that they had."""

    samples: Samples
    reward: Tensor
    old: Tensor | None


def reference_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the reference among kept tensors."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def tensors_of(rollout: Rollout) -> dict[str, Tensor]:
    """Samples as they are kept for the updates that follow on them."""
    named = {**rollout.samples._asdict(), "reward": rollout.reward}
    if rollout.old is not None:
        named["old"] = rollout.old
    return {f"{PREFIX}{name}": tensor for name, tensor in named.items()}


def kept_rollout(tensors: Mapping[str, Tensor]) -> Rollout:
    """What `tensors_of` kept. Raises KeyError where it is missing."""
    tokens, start, stop, reward, old = (tensors[f"{PREFIX}{name}"] for name in (*Samples._fields, "reward", "old"))
    return Rollout(Samples(tokens, start, stop), reward, old)


def check_kept(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> None:
    """Raises ValueError for rewards that are not one for each member, for a missing reference, and for
    samples that are none of this run."""
    for name, figure in state.method_state.items():
        if (len(figure) if isinstance(figure, list) else None) != config.members:
            raise ValueError(f"its {name} is not one number for each model")
    done = state.step - num_steps(config, 0)
    if done > 0 and not reference_weights(state.method_tensors):
        raise ValueError("the weights of its reference are missing")
    if done <= 0 or not done % config.iterations:
        return
    try:
        samples, reward, old = kept_rollout(state.method_tensors)
    except KeyError:
        raise ValueError("the samples that its step goes on with are missing") from None
    assert old is not None, "several updates keep them"
    tokens, start, stop = samples
    members = () if config.members is None else (config.members,)
    shape, width = (*members, corpus.batch_size), tokens.shape[-1] if tokens.dim() else 0
    types = [torch.int64] * 3 + [torch.float64, torch.float32]
    typed = [each.dtype for each in (*samples, reward, old)] == types
    sized = start.shape == stop.shape == reward.shape == shape and tokens.shape == (*shape, width)
    if not (typed and sized and old.shape == (*shape, width - 1) and 1 < width <= state.model.config.block_size + 1):
        raise ValueError("its samples are of another shape or type than those of this run")
    rows = (start >= 1) & (start < stop) & (stop <= width) & reward.isfinite() & old.isfinite().all(-1)
    known = (tokens >= 0) & (tokens < (state.model.config.vocab_size or 0))
    if not (rows.all() and known.all()):
        raise ValueError("its samples hold tokens, lengths or rewards that cannot be")
