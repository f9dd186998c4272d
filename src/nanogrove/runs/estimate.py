"""Parameters, tokens, memory and FLOPs of a run, before it begins."""

from typing import Any, TypedDict

import torch

from nanogrove.config.preset import Preset
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.runs.rehearsal import paces
from nanogrove.runs.setup import Setup, build
from nanogrove.train.autotune import activation_bytes, memory_bytes
from nanogrove.train.optim.rules import moments_per_weight

TIMED_SECONDS = 0.5  # of steps, of each kind that a method has; three at least
LONG_STEP_SECONDS = 10.0  # above which the first step is enough


class Estimate(TypedDict):
    """What a run would take."""

    parameters: int  # of one member
    steps: int
    tokens: int  # of one member
    epochs: float | None  # None where the data never ends, or is still being read
    members: int
    flops: float  # of all members
    memory_bytes: float  # of all members
    precision: str
    device: str
    data: dict[str, Any]  # what the corpus says of itself
    budget: dict[str, float]  # minutes that became steps, and the times of a step
    seconds: float | None  # of training, by timing a few steps; None where no step fits in the memory


def estimate(preset: Preset, allow_code: bool = False) -> Estimate:
    """What a run would take, once its data is prepared.

    Memory counts weights, those of auxiliary heads too, gradients, moments and, roughly, what one micro-batch keeps for
    its backward pass. A few steps are timed, on a state that is thrown away. Raises what `build` does.
    """
    setup = build(preset, allow_code=allow_code)
    config, plan, train, corpus = setup.model_on_data, setup.plan, setup.preset.train, setup.corpus
    with torch.device("meta"):
        model = GPT(config)
        head_parameters = Heads(preset.auxiliary, config).parameter_count()
    parameters, members = model.parameter_count(), setup.population or 1
    tokens = plan.steps * train.batch_size * corpus.length
    moments = moments_per_weight(preset.optimizer.name)
    activations = activation_bytes(config, -(-train.batch_size // plan.accumulation))
    memory = members * (4 * (parameters + head_parameters) * (2 + moments) + activations)
    return {
        "parameters": parameters,
        "steps": plan.steps,
        "tokens": tokens,
        "epochs": corpus.windows_per_epoch and tokens / (corpus.windows_per_epoch * corpus.length),
        "members": members,
        "flops": members * tokens * model.flops_per_token(corpus.length),
        "memory_bytes": memory,
        "precision": plan.precision,
        "device": str(setup.device),
        "data": corpus.describe(),
        "budget": setup.budget,
        "seconds": training_seconds(setup) if memory < memory_bytes(setup.device) else None,
    }


def training_seconds(setup: Setup) -> float:
    """How long training takes, without evaluation, samples and saving, by timing a few of its steps."""
    if setup.budget:
        return 60 * setup.budget["minutes"]
    config, wanted = setup.preset.method, TIMED_SECONDS
    measured = paces(config, setup.corpus, setup.plan, setup.new_state, wanted, longest=LONG_STEP_SECONDS)
    return measured.main.step * setup.method.budget(config, setup.plan.steps) + measured.further.step * measured.count
