"""Evolution strategies: gradient descent on an estimate from scores alone, which need not be differentiable.

1. `train.steps` ordinary gradient steps make a base, or a saved run is one.
2. In each generation P/2 random directions ε are drawn and the model is scored at θ + σε and at θ − σε, all P members
   as one population on one batch. The estimate is Σ (f₊ − f₋) ε / (σP), of shaped scores f; the optimizer uses it
   as the gradient.

Directions are standard normal. With unshaped scores the estimate is then an unbiased one of the gradient of
E f(θ + σε), the score smoothed by that noise (Salimans et al. 2017, arXiv 1703.03864). That score is
trained, not the score of θ alone. Shaped scores have another gradient, of another size.

With `rank` r the direction of a weight matrix is A Bᵀ/√r with r columns of normal numbers each, r(m + n) numbers
instead of m·n (EGGROLL 2025, arXiv 2511.16652). Its covariance is the identity, too, but it is not Gaussian: its
entries have fourth moments of 3 + 6/r instead of 3 and depend on each other. So the estimate is the gradient of f for
σ → 0 and the smoothed one for a quadratic f; else it is off by the order of σ² times the third derivatives of f, which
falls as 1/r. For f = w⁴ at θ = σ = 1/2 it is 5 at rank 1, 2.75 at rank 4 and 2 with Gaussian noise, as the smoothed
gradient is. The published method never forms the perturbed matrices, which is what low rank is for; at the sizes here
they are formed, a few members at a time, so low rank saves little and is not the default.

A direction is a function of (seed, generation, pair) and is drawn again for the update instead of being kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed
from nanogrove.evaluate.fitness import Fitness, FitnessConfig, assess, evaluate_fitness, loss
from nanogrove.methods.contract import Method, MethodConfig
from nanogrove.methods.warm_start import saved_weights
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.paths import OnDisk
from nanogrove.record.events import Event, phase
from nanogrove.train.loop import fit
from nanogrove.train.objective import Loss, Objective, next_token
from nanogrove.train.plan import Plan, Span
from nanogrove.train.state import TrainState

Shaping = Literal["zscore", "rank", "sign", "none"]


class Config(FitnessConfig, MethodConfig):
    """`train.steps` are those of the base; each generation is a step more."""

    name: Literal["evolution_strategies"] = "evolution_strategies"
    population_size: int = Field(32, ge=2, le=10_000_000, description="members scored per generation, in pairs")
    generations: int = Field(500, ge=1, description="updates of the parameters")
    sigma: float = Field(0.01, gt=0, description="standard deviation of the noise on each weight")
    rank: int | None = Field(None, ge=1, description="rank of the noise on a matrix; null is Gaussian, of full rank")
    shaping: Shaping = Field("zscore", description="how scores are scaled; sign takes that of each pair's difference")
    rate: float = Field(1.0, gt=0, description="learning rates of the generations over those of the base")
    base: Annotated[str | None, OnDisk()] = Field(
        None, description="one model to begin from, as train.init takes them, instead of base training"
    )
    at_once: int = Field(32, ge=2, le=10_000, description="members whose weights exist at one time")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("population_size", "at_once"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} {getattr(self, name)} is odd, and members come in pairs")
        return self


def num_steps(config: Config, budget: int) -> int:
    """Steps of the base, none after a saved one, and one per generation."""
    return (0 if config.base is not None else budget) + config.generations


def phases(config: Config, steps: int) -> list[Span]:
    """The base, of no steps after a saved one, and the generations."""
    begin = steps - config.generations
    return [Span("base", 0, begin), Span("generations", begin, steps, config.rate)]


def check(config: Config, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError or CheckpointError for a fitness or a base that cannot be loaded."""
    config.find_fitness(corpus, model.block_size, allow_code)
    if config.base is not None:
        saved_weights(config.base, corpus, model)


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields a `step` event per step or generation, and an `eval` event before those that `plan.evaluates` names."""
    model = state.model
    fitness = config.find_fitness(corpus, model.config.block_size, plan.allow_code)
    base, generations = phases(config, plan.steps)
    begin = base.end
    if config.base is not None and state.step == 0:
        state.begin_from(saved_weights(config.base, corpus, model.config))

    def scored(event: Event) -> Iterator[Event]:
        if plan.evaluates(event.step) or event.step == begin:
            values, samples = assess(state.scored, corpus, fitness, plan.evaluate_tokens, plan.seed)
            yield state.eval_event({**values, "score": float(samples.mean())})
        yield event

    if state.step == 0 < begin:
        yield phase("base", 0, "NLL")
    for event in fit(state, corpus.batch, next_token, plan.phase(0, begin)):
        yield from scored(event)
    if state.step == begin:
        yield phase("generations", begin, *config.objective, "score")
        state.optimizer.state.clear()  # moments of true gradients say nothing about estimates
    for event in _generations(state, corpus, plan.phase(*generations[1:]), config, fitness):
        yield from scored(event)


def rehearse(state: TrainState, corpus: Corpus, plan: Plan, config: Config, further: bool) -> Iterator[Event]:
    """Yields `step` events of the base, or of generations."""
    if further:
        fitness = config.find_fitness(corpus, state.model.config.block_size, plan.allow_code)
        return _generations(state, corpus, plan, config, fitness)
    return fit(state, corpus.batch, next_token, plan)


def _generations(state: TrainState, corpus: Corpus, plan: Plan, config: Config, fitness: Fitness) -> Iterator[Event]:
    """Yields a `step` event per generation, to the end of the plan."""
    max_loss = plan.max_loss if fitness is loss else torch.inf
    rest = replace(plan, accumulation=1, compile=False, max_loss=max_loss)
    return fit(state, corpus.batch, estimated(state, fitness, plan.seed, config), rest)


def estimated(state: TrainState, fitness: Fitness, seed: int, config: Config) -> Objective:
    """An objective whose value is the members' mean score, and whose gradient is the estimate."""
    model, pairs = state.model, config.population_size // 2
    device = model.embed.weight.device
    together = min(config.at_once // 2, pairs)
    members = GPT(model.config, 2 * together).to(device).eval()

    def objective(_: nn.Module, batch: Batch) -> Loss:
        centre = dict(model.named_parameters())
        shapes = {name: parameter.shape for name, parameter in centre.items()}

        def draw(pair: int) -> "Direction":
            return direction(shapes, config.rank, seed, state.step, pair, device)

        scores = []
        with torch.no_grad():
            for first in range(0, pairs, together):
                directions = [draw(min(pair, pairs - 1)) for pair in range(first, first + together)]
                for name, parameter in members.named_parameters():
                    noise = config.sigma * torch.stack([full(d[name]) for d in directions])
                    parameter.copy_(centre[name] + torch.cat([noise, -noise]))
                generator = torch.Generator(device).manual_seed(derived_seed(seed, "score", state.step))
                score = fitness(members, batch.expand(2 * together), generator).mean(-1).float()
                scores.append(score.view(2, together)[:, : pairs - first])
            both = torch.cat(scores, 1)  # [2, pairs]
            weights = coefficients(both, config.shaping, config.sigma)
            gradient = combined((draw(pair) for pair in range(pairs)), weights)
        total = sum(((centre[name] * gradient[name]).sum() for name in centre), torch.zeros((), device=device))
        return Loss(total - total.detach() + both.mean(), {"score_spread": both.std()})

    return objective


class Factors(NamedTuple):
    """The noise A Bᵀ/√r of a matrix: `a [m, r]`, `b [n, r]`."""

    a: Tensor
    b: Tensor


Direction = dict[str, Factors | Tensor]  # a tensor for what is not a matrix


def direction(
    shapes: Mapping[str, Sequence[int]],
    rank: int | None,
    seed: int,
    step: int,
    pair: int,
    device: torch.device | str = "cpu",
) -> Direction:
    """The direction of a pair, by parameter: a function of (seed, step, pair) alone.

    Args:
        shapes: of the parameters, by name.
        rank: of the noise on matrices; None for Gaussian noise.
        seed: of the run.
        step: the generation.
        pair: the number of the pair.
        device: where the noise is drawn.
    """
    generator = torch.Generator(device).manual_seed(derived_seed(seed, "direction", step, pair))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    return {
        name: normal(*shape)
        if rank is None or len(shape) != 2
        else Factors(normal(shape[0], rank), normal(shape[1], rank))
        for name, shape in shapes.items()
    }


def full(noise: Factors | Tensor) -> Tensor:
    """The noise of one parameter, in its shape."""
    return noise if isinstance(noise, Tensor) else noise.a @ noise.b.mT / noise.a.shape[1] ** 0.5


def coefficients(scores: Tensor, shaping: Shaping, sigma: float) -> Tensor:
    """The weight of each direction in the estimate, `[pairs]`, from the scores `[2, pairs]` at θ + σε and θ − σε.

    `zscore` divides scores by their deviation, `rank` replaces them by ranks from −1/2 to 1/2 (ties share theirs),
    `sign` keeps the sign of each difference. Equal scores everywhere give zeros.
    """
    shaped = scores
    if shaping == "rank":
        below = (scores.flatten()[:, None] > scores.flatten()).sum(1)
        equal = (scores.flatten()[:, None] == scores.flatten()).sum(1)
        shaped = ((below + (equal - 1) / 2) / max(scores.numel() - 1, 1) - 0.5).view_as(scores)
    difference = shaped[0] - shaped[1]
    if shaping == "sign":
        difference = difference.sign()
    elif shaping == "zscore":
        difference = difference / scores.std().clamp(min=torch.finfo(scores.dtype).tiny)
    return difference / (2 * sigma * scores.shape[1])


def combined(directions: Iterator[Direction], weights: Tensor) -> dict[str, Tensor]:
    """The sum of directions, each times its weight, by parameter."""
    total: dict[str, Tensor] = {}
    for each, weight in zip(directions, weights, strict=True):
        for name, noise in each.items():
            term = weight * full(noise)
            total[name] = total[name] + term if name in total else term
    return total


METHOD = Method[Config, Corpus](
    Config=Config,
    run=run,
    num_steps=num_steps,
    copies=lambda config: min(config.at_once, config.population_size),
    counted_by=("generations",),
    phases=phases,
    rehearse=rehearse,
    check=check,
    evaluate=lambda trained, corpus, split, limit: evaluate_fitness(
        trained.model, corpus, trained.config, split, limit, trained.seed, trained.allow_code
    ),
    final_split="test",
)
