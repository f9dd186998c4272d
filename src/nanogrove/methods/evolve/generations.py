"""The generations: what is trained, scored and bred when, and what is remembered of it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NotRequired, cast

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed, random
from nanogrove.errors import DivergedError, PresetError
from nanogrove.evaluate import auxiliary, selection
from nanogrove.evaluate.fitness import Fitness, assess, evaluate_fitness
from nanogrove.methods.contract import Method
from nanogrove.methods.evolve.choice import choose
from nanogrove.methods.evolve.config import Config
from nanogrove.model.config import ModelConfig
from nanogrove.record.events import Event, Values
from nanogrove.settings import Count
from nanogrove.train.parallel.members import fit_members
from nanogrove.train.plan import Plan
from nanogrove.train.population.breeding import (
    bred,
    copy_members,
    crossover,
    diversity,
    mutate,
    reset_moments,
)
from nanogrove.train.population.hyperparameters import set_hyperparameters
from nanogrove.train.state import TrainState


def check(config: Config, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError for a fitness that cannot be computed, before anything is trained."""
    config.find_fitness(corpus, model.block_size, allow_code)


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events, and before the last one of a generation `eval` and `generation`."""
    model = state.model.config
    fitness = config.find_fitness(corpus, model.block_size, plan.allow_code)
    yield from _Evolution(state, corpus, plan, config, fitness).events()


def rehearse(state: TrainState, corpus: Corpus, plan: Plan, config: Config, further: bool) -> Iterator[Event]:
    """Yields `step` events of a generation that does not end, so that nothing is scored or bred."""
    return run(state, corpus, plan, config.model_copy(update={"steps_per_generation": plan.steps}))


def check_scored(config: Config, corpus: Corpus, limit: int | None) -> None:
    """Raises PresetError where so few documents are scored that no difference could pass the test of significance."""
    if config.significance is None or config.selection == "none":
        return
    needed = selection.documents_needed(config.replacements, config.significance)

    def count(limit: int | None) -> int:
        return len(np.unique(corpus.documents("validation", limit).numpy()))

    scored = count(limit)
    if scored >= needed:
        return
    cure = "method.significance=null, which replaces without a test, or give more validation data"
    if limit is not None and count(None) >= needed:
        while count(limit) < needed:
            limit *= 2
        cure = f"evaluate.tokens={limit}"
    raise PresetError(
        f"method.significance={config.significance:g} needs {needed} documents to rank and to test members on, and "
        f"{scored} are scored; set {cure}"
    )


def check_longer(state: TrainState, config: Config, steps: int) -> None:
    """Raises ValueError after the last generation of an earlier version, which did not note that it bred nothing."""
    if state.step == steps and "unbred" not in state.method_state:
        raise ValueError("nothing was bred after its last generation, and its checkpoint does not say so")


class Progress(TypedDict):
    """`TrainState.method_state` of a run under way, JSON.

    Args:
        members: the number of the member in each slot, `[P]`.
        born: how many members there have been.
        values: each varied hyperparameter, `[P]`.
        unbred: there after the last generation, which a longer run goes on to breed from.
    """

    members: list[Count]
    born: Count
    values: dict[str, list[float]]
    unbred: NotRequired[Literal[True]]


def check_kept(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> None:
    """Raises ValueError where there is not one number per member."""
    kept = cast(Progress, state.method_state)
    if kept["values"].keys() != config.vary.keys():
        raise ValueError("its values are not of the hyperparameters in method.vary")
    lengths = {len(kept["members"]), *map(len, kept["values"].values())}
    if lengths != {config.population_size}:
        raise ValueError(f"it does not have a number for each of {config.population_size} members")


@dataclass
class _Evolution:
    """A run under way; `progress`, which is `state.method_state`, holds all of its memory."""

    state: TrainState
    corpus: Corpus
    plan: Plan
    config: Config
    fitness: Fitness
    progress: Progress = field(init=False)
    documents: Tensor = field(init=False)  # of the sequences that are scored, [N]

    def __post_init__(self) -> None:
        self.documents = self.corpus.documents("validation", self.plan.evaluate_tokens)
        if not self.state.method_state:
            size, seed = self.config.population_size, self.plan.seed
            draws = [random(seed, "hyperparameters", member) for member in range(size)]
            values = {name: [varied.first(draw) for draw in draws] for name, varied in self.config.vary.items()}
            self.state.method_state |= {"members": list(range(size)), "born": size, "values": values}
        self.progress = cast(Progress, self.state.method_state)

    def events(self) -> Iterator[Event]:
        state, every = self.state, self.config.steps_per_generation
        while state.step < self.plan.steps:
            if "unbred" in self.progress:
                yield from self.generation(0.0, again=True)
            end = (state.step // every + 1) * every
            # By member even where all are equal, so that the step counts of their moments are by member.
            factor = set_hyperparameters(state, self.progress["values"]) * torch.ones(
                self.config.population_size, dtype=torch.float64
            )
            began = state.seconds
            phase = replace(self.plan.until(end, factor), tolerate_diverged_members=True)
            for event in fit_members(state, self.corpus.batch, phase):
                if event.step == end:
                    yield from self.generation(state.seconds - began)
                elif self.plan.evaluates(event.step):
                    yield from self.assess()[0]
                yield event

    def assess(self) -> tuple[list[Event], Tensor]:
        """The events `eval` and, with heads, `auxiliary`, and the fitness `[P, N]` of N sequences, by rank 0."""
        state, plan = self.state, self.plan
        plan.layout.gather()

        def compute() -> tuple[Values, list[list[float]]]:
            values, samples = assess(state.scored, self.corpus, self.fitness, plan.evaluate_tokens, plan.seed)
            return values, samples.tolist()

        values, rows = plan.ranks.broadcast_from_main(compute)
        samples = torch.tensor(rows, dtype=torch.float64)
        scores = samples.mean(1).nan_to_num(torch.inf, torch.inf).tolist()
        events = [state.eval_event({**values, "score": scores})]
        if plan.ranks.first:
            events += auxiliary.evaluate_heads(state, self.corpus, self.corpus.batch, plan)
        return events, samples

    def generation(self, trained: float, again: bool = False) -> Iterator[Event]:
        """Scores all members and, unless it is the last generation, breeds the next; `again` where it was the last."""
        state, progress = self.state, self.progress
        clock = [time.perf_counter()]
        events, samples = self.assess()
        if not again:
            state.round += 1
            yield from events  # the best is kept as it was scored
        clock.append(time.perf_counter())
        distance = diversity(self.state, self.corpus) if self.plan.ranks.first else {}
        clock.append(time.perf_counter())
        if state.step == self.plan.steps:
            progress["unbred"] = True
        else:
            progress.pop("unbred", None)
        values = {
            "generation": state.round,
            "members": list(progress["members"]),
            "score": events[0].values["score"],
            "unit": self.config.objective[1] or self.config.objective[0],
            "error": selection.standard_error(samples, self.documents).tolist(),
            "values": {name: list(values) for name, values in progress["values"].items()},
            "distance": distance,
            **(self.breed(samples) if state.step < self.plan.steps else {}),
        }
        clock.append(time.perf_counter())
        spent = dict(zip(("assess", "compare", "breed"), np.diff(clock).tolist(), strict=True))
        yield Event("generation", state.step, values, {"train": trained, **spent})

    # Breeding.

    def breed(self, samples: Tensor) -> Values:
        """Replaces members; returns `births`, members `spared` as not significant, and those `diverged`."""
        scores = samples.mean(1)
        owners = list(self.progress["members"])
        if not scores.isfinite().any():
            raise DivergedError(f"generation {self.state.round}: no member's score is finite; lower the learning rates")
        diverged = [member for member, finite in enumerate(scores.isfinite().tolist()) if not finite]
        values: Values = {"births": [], "spared": [], "diverged": [owners[member] for member in diverged]}
        if self.config.selection == "none":
            return values
        size = self.config.population_size // self.config.islands
        islands = [range(first, first + size) for first in range(0, self.config.population_size, size)]
        orders = [selection.ranked(members, scores) for members in islands]
        chosen = choose(self.config, samples, self.documents, self.plan.seed, self.state.round)
        migrants = self.migrants(orders, [[m for m in order if m not in diverged] for order in orders])
        values["spared"] = [owners[member] for member in chosen.not_significant if member not in migrants]
        values["births"] = self.replace(chosen.parents | migrants, chosen.pools, migrants)
        return values

    def migrants(self, orders: list[list[int]], alive: list[list[int]]) -> dict[int, int]:
        """The worst slot of each island and the best of the island before, which replaces it, when it is time."""
        if len(orders) == 1 or self.state.round % self.config.migrate_every:
            return {}
        return {order[-1]: alive[number - 1][0] for number, order in enumerate(orders) if alive[number - 1]}

    def replace(self, parents: dict[int, int], pools: dict[int, list[int]], migrants: dict[int, int]) -> list[Values]:
        """Copies `parents` to the slots of their children and varies all but `migrants`; returns the births."""
        config, state, progress, births = self.config, self.state, self.progress, []
        seconds = {}
        for child in sorted(parents.keys() - migrants.keys()):
            generator = random(self.plan.seed, "cross", state.round, child)
            others = [member for member in pools[child] if member not in (child, parents[child])]
            if config.crossover and others and generator.random() < config.crossover_rate:
                second = others[int(generator.integers(len(others)))]
                weights = [{name: p[second].detach().clone() for name, p in each.items()} for each in bred(state)]
                seconds[child] = second, weights, generator
        copy_members(state, list(parents), list(parents.values()))
        if config.moments == "reset":
            reset_moments(state, [child for child in parents if child not in migrants])
        before, owners = {name: list(values) for name, values in progress["values"].items()}, list(progress["members"])
        for child, parent in sorted(parents.items()):
            birth = {"slot": child, "member": progress["born"], "replaces": owners[child], "parents": [owners[parent]]}
            explored = random(self.plan.seed, "explore", state.round, child)
            for name, varied in config.vary.items():
                value = before[name][parent]
                progress["values"][name][child] = value if child in migrants else varied.explore(value, explored)
            birth["kind"] = "migrant" if child in migrants else "clone"
            if child not in migrants:
                if child in seconds and config.crossover:
                    second, weights, generator = seconds[child]
                    crossover(state, child, weights, config.crossover, generator)
                    birth |= {"kind": config.crossover, "parents": [owners[parent], owners[second]]}
                noise = progress["values"].get("noise", [config.noise] * config.population_size)[child]
                if noise:
                    mutate(state, child, noise, derived_seed(self.plan.seed, "mutate", state.round, child))
                    birth["noise"] = noise
            birth["values"] = {name: values[child] for name, values in progress["values"].items()}
            progress["members"][child] = progress["born"]
            progress["born"] += 1
            births.append(birth)
        state.apply_adapter()
        if state.average is not None:
            state.average.modules.apply_adapter()
        return births


METHOD = Method[Config, Corpus](
    Config=Config,
    run=run,
    num_members=lambda config: config.population_size,
    trains_heads=lambda config: True,
    needs_budget=False,
    num_steps=lambda config, budget: config.generations * config.steps_per_generation,
    counted_by=("generations", "steps_per_generation"),
    step_depends_on=lambda config, steps, step: {"method.steps_per_generation": step // config.steps_per_generation},
    check_longer=check_longer,
    between_steps=tuple(sorted({*Config.model_fields} - {"name", "population_size", "vary"})),
    rehearse=rehearse,
    check=check,
    evaluate=lambda trained, corpus, split, limit: evaluate_fitness(
        trained.model, corpus, trained.config, split, limit, trained.seed, trained.allow_code
    ),
    check_scored=check_scored,
    Kept=Progress,
    check_kept=check_kept,
    final_split="test",
    ranks_share="members",
)
