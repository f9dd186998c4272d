"""Parameters, tokens, memory and FLOPs of a run, before it begins."""

from typing import Any, TypedDict

import torch

from nanogrove.config.preset import Preset
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.runs.setup import build
from nanogrove.train.autotune import activation_bytes
from nanogrove.train.optim.rules import moments_per_weight
from nanogrove.waits import Watch, unwatched


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


def estimate(preset: Preset, allow_code: bool = False, watch: Watch = unwatched) -> Estimate:
    """What a run would take, once its data is prepared, which `watch` sees.

    Memory counts weights, those of auxiliary heads too, gradients, moments and, roughly, what one micro-batch keeps for
    its backward pass. Raises what `build` does.
    """
    setup = build(preset, allow_code=allow_code, watch=watch)
    config, plan, train, corpus = setup.model_on_data, setup.plan, setup.preset.train, setup.corpus
    with torch.device("meta"):
        model = GPT(config)
        head_parameters = Heads(preset.auxiliary, config).parameter_count()
    parameters, members = model.parameter_count(), setup.population or 1
    tokens = plan.steps * train.batch_size * corpus.length
    moments = moments_per_weight(preset.optimizer.name)
    activations = activation_bytes(config, -(-train.batch_size // plan.accumulation))
    return {
        "parameters": parameters,
        "steps": plan.steps,
        "tokens": tokens,
        "epochs": corpus.windows_per_epoch and tokens / (corpus.windows_per_epoch * corpus.length),
        "members": members,
        "flops": members * tokens * model.flops_per_token(corpus.length),
        "memory_bytes": members * (4 * (parameters + head_parameters) * (2 + moments) + activations),
        "precision": plan.precision,
        "device": str(setup.device),
        "data": corpus.describe(),
        "budget": setup.budget,
    }
