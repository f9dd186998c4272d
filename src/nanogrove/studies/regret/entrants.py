"""The methods that a regret study trains, each by its preset; a new one is a function and a line in `ENTRANTS`.

Each takes the β whose optimum is π*, as its own parameters have it:

    rloo     β of the KL in the reward, per text: its expected gradient is that of J
    grpo     β / σ, since advantages are divided by the standard deviation of rewards, σ that under π*
    dpo      β, for pairs chosen with probability σ(r − r')
    kto      β, of the same log-ratios; it aims at no such optimum
    rwr      β of the weights exp(r/β), rewards as they are
    awr      the same β, with weights clipped at 20 times that of the mean reward
    filter   the share of texts whose imitation has the least regret of all shares
    es       none: it climbs the mean reward of samples, without a reference

`ideal` gives the policy that a method would come to with all texts and a model that can express it, where that has a
closed form; its regret is what no number of samples takes away.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from nanogrove.evaluate.regret import divergence, expected, imitated
from nanogrove.studies.regret.settings import GROUP
from nanogrove.studies.regret.worlds import World, common_preset, grammar_data, rewarded_data, train_section

CLIP = 20.0  # of awr, as its authors have it
WARMUP = 10
MEMBERS = 32  # of evolution strategies, at most


class Entrant(NamedTuple):
    """A method of the study.

    Args:
        title: what the page calls it.
        preset: its preset in a world at a learning rate, but for the seed.
        ideal: the log-probabilities `[N]` of what it aims at; None where there is no closed form.
    """

    title: str
    preset: Callable[[World, float], dict[str, Any]]
    ideal: Callable[[World], Tensor] | None = None


def best_threshold(world: World) -> float:
    """The least reward of the texts whose plain imitation has the least regret."""
    star, levels = world.optimum.log_probs, set[float](world.rewards.tolist())
    return min(sorted(levels), key=lambda least: divergence(_best_texts(world, least), star))


def _best_texts(world: World, least: float) -> Tensor:
    return imitated(world.reference, (world.rewards >= least).double())


def _clipped(world: World) -> Tensor:
    """The optimum of awr: without prompts its baseline is the mean reward."""
    advantages = world.rewards - expected(world.reference, world.rewards)
    return imitated(world.reference, (advantages / world.settings.beta).exp().clamp(max=CLIP))


def deviation(policy: Tensor, rewards: Tensor) -> float:
    """The standard deviation of rewards `[N]` under a policy of log-probabilities `[N]`."""
    mean = expected(policy, rewards)
    return math.sqrt(expected(policy, (rewards - mean).square()))


def _steps(world: World, rate: float) -> dict[str, Any]:
    """The sections that all runs share."""
    return {
        **common_preset(world.settings),
        "optimizer": {"name": "adamw", "lr": rate, "weight_decay": 0.0},
        "schedule": {"name": "constant", "warmup": min(WARMUP, world.settings.steps)},
    }


def _offline(world: World, rate: float, algorithm: str, **settings: object) -> dict[str, Any]:
    kind, file = ("preferences", world.pairs_file) if algorithm == "dpo" else ("rewarded", world.scored_file)
    base = {"name": "offline_rl", "algorithm": algorithm, "base": str(world.base.absolute()), "scale": "none"}
    return {
        **_steps(world, rate),
        "method": base | {"beta": world.settings.beta} | settings,
        "data": rewarded_data(world.study, file, kind),
        "train": train_section(world.settings.steps, world.settings.texts),
    }


def _filter(world: World, rate: float) -> dict[str, Any]:
    least = best_threshold(world)
    share = expected(world.reference, (world.rewards >= least).double())
    return _offline(world, rate, "filter", fraction=min(max(share, 1e-6), 1.0))


def _evolution(world: World, rate: float) -> dict[str, Any]:
    settings = world.settings
    members = next(n for n in range(min(MEMBERS, settings.texts), 1, -2) if settings.texts % n == 0)
    method = {
        "name": "evolution_strategies",
        "base": str(world.base.absolute()),
        "population_size": members,
        "generations": settings.steps,
        "sigma": 0.02,
        "fitness": settings.reward.model_dump(exclude_defaults=True),
        "prompt": 1,
        "tokens": settings.length,
        "at_once": members,
    }
    train = train_section(1, settings.texts // members)
    return {**_steps(world, rate), "method": method, "data": grammar_data(settings), "train": train}


def _policy_gradient(world: World, rate: float, algorithm: str, beta: float) -> dict[str, Any]:
    settings = world.settings
    method = {
        "name": "policy_gradient",
        "algorithm": algorithm,
        "base": str(world.base.absolute()),
        "reward": settings.reward.model_dump(exclude_defaults=True),
        "samples": GROUP,
        "prompt": 1,
        "tokens": settings.length,
        "beta": beta,
    }
    train = train_section(settings.steps, settings.texts)
    return {**_steps(world, rate), "method": method, "data": grammar_data(settings), "train": train}


def _rloo(world: World, rate: float) -> dict[str, Any]:
    return _policy_gradient(world, rate, "rloo", world.settings.beta)


def _grpo(world: World, rate: float) -> dict[str, Any]:
    spread = deviation(world.optimum.log_probs, world.rewards)
    return _policy_gradient(world, rate, "grpo", world.settings.beta / spread)


def _target(world: World) -> Tensor:
    return world.optimum.log_probs


ENTRANTS: dict[str, Entrant] = {
    "rloo": Entrant("RLOO", _rloo, _target),
    "grpo": Entrant("GRPO", _grpo),
    "dpo": Entrant("DPO", lambda world, rate: _offline(world, rate, "dpo"), _target),
    "kto": Entrant("KTO", lambda world, rate: _offline(world, rate, "kto")),
    "rwr": Entrant("RWR", lambda world, rate: _offline(world, rate, "rwr"), _target),
    "awr": Entrant("AWR", lambda world, rate: _offline(world, rate, "awr", clip=CLIP), _clipped),
    "filter": Entrant("best texts", _filter, lambda world: _best_texts(world, best_threshold(world))),
    "es": Entrant("evolution strategies", _evolution),
}
