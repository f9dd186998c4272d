"""The settings of evolution."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nanogrove.evaluate.fitness import FitnessConfig
from nanogrove.methods.contract import MethodConfig
from nanogrove.train.population.breeding import Crossover
from nanogrove.train.population.hyperparameters import Name, Range


class Config(FitnessConfig, MethodConfig):
    """`generations` × `steps_per_generation` steps are the run's, so `train` names no budget."""

    name: Literal["evolve"] = "evolve"
    population_size: int = Field(8, ge=2, le=10_000, description="members, of all islands together")
    generations: int = Field(10, ge=1, description="how often members are scored and replaced")
    steps_per_generation: int = Field(100, ge=1, description="optimizer steps of each member between two selections")
    selection: Literal["truncation", "tournament", "none"] = Field(
        "truncation", description="how members are replaced; none replaces no member"
    )
    elites: int = Field(1, ge=0, description="best members of an island that nothing replaces")
    replaced: float = Field(
        0.25, gt=0, lt=1, description="truncation: share of an island that is replaced, its worst members"
    )
    parents: float = Field(
        0.25, gt=0, lt=1, description="truncation: share of an island that replaces them, its best members"
    )
    tournament_size: int = Field(2, ge=2, description="tournament: members that compete to be a parent")
    significance: float | None = Field(
        0.05,
        ge=0.001,
        lt=0.5,
        description="largest chance per generation to replace a member that is not worse; null: no test",
    )
    noise: float = Field(0.0, ge=0, description="size of the noise on a child's weights, over their RMS")
    crossover: Crossover | None = Field(None, description="how a child is mixed with a second parent")
    crossover_rate: float = Field(0.5, ge=0, le=1, description="share of the children that are mixed")
    moments: Literal["copy", "reset"] = Field(
        "copy", description="whether a child copies its parent's optimizer moments"
    )
    vary: dict[Name, Range] = Field({}, description="hyperparameters that differ, by name")
    islands: int = Field(1, ge=1, description="groups that breed among themselves")
    migrate_every: int = Field(5, ge=1, description="generations between two migrations")

    @model_validator(mode="after")
    def _check(self) -> Self:
        size, rest = divmod(self.population_size, self.islands)
        if rest or size < 2:
            raise ValueError(
                f"{self.population_size} members do not make {self.islands} islands of two or more, equally large"
            )
        if self.elites >= size:
            raise ValueError(f"elites {self.elites} of {size} members leave nobody to replace; take fewer")
        if self.selection == "truncation":
            replaced, parents = self.counts
            for name, count in (("replaced", replaced), ("parents", parents)):
                if not count:
                    raise ValueError(f"{name}={getattr(self, name):g} of {size} members rounds down to 0; take more")
            if replaced + parents > size:
                raise ValueError(f"replaced and parents, {replaced} + {parents}, are more than the {size} members")
            if replaced > size - self.elites:
                raise ValueError(f"replaced and elites, {replaced} + {self.elites}, are more than the {size} members")
            if self.crossover and parents < 2:
                raise ValueError(f"crossover {self.crossover} takes two parents, and parents {self.parents:g} is one")
        if self.noise and "noise" in self.vary:
            raise ValueError("noise is given and vary.noise too; leave one out")
        if self.vary.get("dropout") and self.vary["dropout"].most >= 1:
            raise ValueError("vary.dropout reaches 1, and drops everything; stay below")
        if "lr" in self.vary and (self.vary["lr"].values and min(self.vary["lr"].values) <= 0):
            raise ValueError("vary.lr must stay above 0")
        return self

    @property
    def replacements(self) -> int:
        """The most replacements that selection tests in one generation."""
        size = self.population_size // self.islands
        return self.islands * (self.counts[0] if self.selection == "truncation" else size - self.elites)

    @property
    def counts(self) -> tuple[int, int]:
        """How many members of an island truncation replaces, and by how many."""
        size = self.population_size // self.islands
        return int(self.replaced * size + 1e-9), int(self.parents * size + 1e-9)
