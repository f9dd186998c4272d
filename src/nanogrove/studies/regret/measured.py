"""What is exact about policies of a world: the points of a run, and decoding that trains nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nanogrove.decoding.steering import reward_augmented, sequence_score
from nanogrove.evaluate.regret import best_of, divergence, expected, text_log_probs, texts
from nanogrove.settings import Settings
from nanogrove.studies.regret.worlds import World
from nanogrove.train.checkpoint import load_best, model_of

NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # of best-of-n
STRENGTHS = tuple(2.0 ** (power / 2) for power in range(-4, 5))  # of steering: β of decoding, nats per unit of reward
FRONTIER_POINTS = 41


class Point(Settings):
    """A policy as exactly as it can be known.

    texts       that were scored until then; of decoding, for each text that is written
    regret      KL(π ‖ π*), nats
    kl          KL(π ‖ μ), nats
    reward      E_π[r]
    strength    of decoding: n of best-of-n, β of steering
    """

    texts: int = 0
    regret: float
    kl: float
    reward: float
    strength: float | None = None


def point(world: World, policy: Tensor, texts: int = 0, strength: float | None = None) -> Point:
    """The point of a policy of log-probabilities `[N]`."""
    return Point(
        texts=texts,
        regret=divergence(policy, world.optimum.log_probs),
        kl=divergence(policy, world.reference),
        reward=expected(policy, world.rewards),
        strength=strength,
    )


def points_of(world: World, run: Path) -> list[Point]:
    """The points of a run after 1, 2, 4, … steps; those of a run that diverged end before that."""
    points = []
    for power in range(world.settings.steps.bit_length()):
        checkpoint = run / "checkpoints" / f"step-{1 << power}"
        if not checkpoint.is_dir():
            break
        points.append(point(world, world.distribution(checkpoint), world.settings.texts << power))
    return points


def best_of_points(world: World) -> list[Point]:
    """Best-of-n of μ for each n of `NUMBERS`."""
    return [point(world, best_of(world.reference, world.rewards, n), n, n) for n in NUMBERS]


def steered_points(world: World) -> list[Point]:
    """Steering of μ by the reward of each prefix, at several β; every token has v + 1 candidates that are scored."""
    settings = world.settings
    model = model_of(load_best(world.base / "checkpoints"))
    scored = settings.length * (settings.v + 1)
    rewards = dict(zip(texts(settings.v, settings.length), world.rewards.tolist(), strict=True))

    def of_tokens(rows: Sequence[Sequence[int]]) -> Sequence[float]:
        return [rewards[tuple(token for token in row if token < settings.v)] for row in rows]

    def of(beta: float) -> Point:
        steered = reward_augmented(sequence_score(of_tokens), beta, settings.v + 1)
        return point(world, text_log_probs(model, settings.v, settings.length, [steered]), scored, beta)

    return [of(strength) for strength in STRENGTHS]


def frontier(world: World) -> Iterator[tuple[float, float]]:
    """KL and regret of the policies ∝ μ exp(λ r), which have the least regret of all policies of their KL.

    λ goes from 0, μ itself, past 1/β, π*.
    """
    for power in torch.linspace(-2.0, 1.5, FRONTIER_POINTS, dtype=torch.float64):
        weighed = world.reference + world.rewards * 10**power / world.settings.beta
        policy = weighed - weighed.logsumexp(0)
        yield divergence(policy, world.reference), divergence(policy, world.optimum.log_probs)
