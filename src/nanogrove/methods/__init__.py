"""Ways to make a model better, one file or folder each. A new one is a file here and a line in `METHODS`.

Each listed module exports `METHOD`, the record that `nanogrove.methods.contract` describes.
"""

from importlib import import_module
from typing import Any

from nanogrove.methods.contract import Method

AnyMethod = Method[Any, Any]  # settings and corpus are known to the file of the method alone

METHODS = {
    "align": "nanogrove.methods.align",
    "pretrain": "nanogrove.methods.pretrain",
    "ensemble": "nanogrove.methods.ensemble",
    "evolve": "nanogrove.methods.evolve.generations",
    "evolution_strategies": "nanogrove.methods.evolution_strategies",
    "offline_rl": "nanogrove.methods.offline_rl",
    "policy_gradient": "nanogrove.methods.policy_gradient.updates",
    "reward_model": "nanogrove.methods.reward_model",
    "self_improve": "nanogrove.methods.self_improve.rounds",
}


def load_method(name: str) -> AnyMethod:
    """The method of this name in `METHODS`. Raises KeyError where there is none."""
    method: AnyMethod = import_module(METHODS[name]).METHOD
    return method
