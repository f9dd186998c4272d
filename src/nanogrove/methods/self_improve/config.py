"""The settings of self-improvement."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nanogrove.methods.contract import MethodConfig
from nanogrove.paths import OnDisk
from nanogrove.train.plan import Span

DIFFICULTIES_AHEAD = 2  # past the hardest opened one, that are measured too


class Config(MethodConfig):
    """`train.steps` are base steps; each of `si_rounds` rounds adds `si_iter`, also one that is undone."""

    name: Literal["self_improve"] = "self_improve"
    voters: int = Field(3, ge=1, le=10_000, description="models trained at once, each from its own seed")
    si_rounds: int = Field(7, ge=0, description="rounds, retries included; 0 trains the base only")
    si_iter: int = Field(100, ge=1, description="steps per round")
    si_rate: float = Field(1.0, gt=0, description="learning rates of the rounds over those of the base")
    reset_moments: bool = Field(True, description="begin each round with fresh optimizer moments")
    to: int | None = Field(None, description="hardest difficulty to open; as far as the rounds reach when left out")
    base: Annotated[str | list[str] | None, OnDisk()] = Field(
        None,
        description="a saved run to begin the rounds from, or a source for each voter, as train.init takes them, "
        "instead of base training",
    )
    labels: Literal["committee", "none"] = Field(
        "committee", description="none, the control: as many steps, all of them on base data"
    )
    examples: int = Field(2000, ge=1, description="prompts labelled per round")
    newest: float = Field(0.5, gt=0, le=1, description="share of a batch from the newest round")
    temperature: float = Field(0.0, ge=0, description="sampling temperature of labels; 0 is greedy")
    vote: float | None = Field(
        None, gt=0, le=1, description="share of the voters that must agree; null takes labels without a vote"
    )
    votes: Literal["equal", "reliability"] = Field(
        "equal",
        description="reliability: votes count by how often a voter is right, as the answers alone show it; `vote` is "
        "then the smallest probability that a label is right, and prompts agree that have it, not all voters alike",
    )
    voter_minimum: float | None = Field(
        None, gt=0, le=1, description="share of held-out base problems that a voter must solve to vote, 0.99, say"
    )
    length_margin: int | None = Field(
        None, ge=1, description="drop labels this many characters from the usual length, or more"
    )
    self_consistency: int | None = Field(
        None, ge=2, description="samples per voter and prompt; more than half must agree"
    )
    confidence: float | None = Field(None, le=0, description="smallest mean log-probability per token of a label, nats")
    gate: Literal["schedule", "agreement"] = Field("schedule", description="what opens the next difficulty")
    threshold: float = Field(
        0.8, ge=0, le=1, description="gate agreement: share of prompts on which all voters must agree"
    )
    lengths: int = Field(1, ge=1, description="gate agreement: most difficulties opened at once")
    guard: bool = Field(True, description="undo a round after which the committee comes apart or forgets")
    guard_agreement: float = Field(0.5, ge=0, le=1, description="smallest agreement on what the round opened")
    guard_drop: float = Field(0.2, ge=0, le=1, description="largest fall of agreement on what was open before")
    guard_loss: float = Field(
        0.1, ge=0, description="largest rise of the loss on replayed earlier data, nats per token"
    )
    guard_fit: float = Field(0.1, ge=0, description="largest loss on a round's labels after it, nats per token")
    guard_trust: float | None = Field(
        None, gt=0, lt=1, description="end the rounds where fewer of the labels are right, as voters' agreement says"
    )
    retries: int = Field(1, ge=0, description="times a difficulty is tried again, with a stricter vote")
    minimum: int = Field(1, ge=1, description="labels that a round must keep to be trained on")
    empty: Literal["stop", "replay"] = Field(
        "stop", description="when it keeps fewer: end the rounds, or train on older data and try again"
    )
    decode_batch: int = Field(1024, ge=1, description="prompts that each voter answers at once")
    inject: float = Field(0.0, ge=0, le=1, description="share of answers corrupted before any filter, for studies")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.votes == "reliability" and self.vote is None:
            raise ValueError("votes=reliability keeps labels by their probability, and vote is null; set vote=0.9, say")
        needs = {
            "vote": self.vote,
            "gate=agreement": self.gate == "agreement" or None,
            "voter_minimum": self.voter_minimum,
            "guard_trust": self.guard_trust,
        }
        for name, wanted in ((name, value is not None) for name, value in needs.items()):
            if wanted and self.voters < 2:
                raise ValueError(f"{name} needs two voters or more, and voters is {self.voters}")
        if self.guard_trust is not None and not self.guard:
            raise ValueError("guard_trust is a bound of the guard, and guard is false; leave one of them out")
        if self.self_consistency and not self.temperature:
            raise ValueError("self_consistency samples, and temperature is 0; set temperature=0.7, say")
        if self.base is not None and not self.si_rounds:
            raise ValueError("base is given and si_rounds is 0, so nothing is left to train")
        return self

    @property
    def support(self) -> float | None:
        """The probability of being right on which voters agree; None where all must give one answer."""
        return self.vote if self.votes == "reliability" else None

    def stricter_vote(self) -> float:
        """The vote of a retry: unanimous, or with a tenth of the doubt."""
        return 1.0 if self.support is None else 1 - (1 - self.support) / 10

    def target(self, hardest_base: int) -> int:
        """The hardest difficulty that may be opened."""
        per_round = self.lengths if self.gate == "agreement" else 1
        return hardest_base + self.si_rounds * per_round if self.to is None else self.to


def base_span(config: Config, steps: int) -> Span:
    """The steps of the base, of a run of so many steps; of the control, which has no rounds, all of them."""
    return Span("base", 0, steps if config.labels == "none" else round_span(config, steps, 0).start)


def round_span(config: Config, steps: int, number: int) -> Span:
    """The steps of a round, counted from 0, of a run of so many steps."""
    start = steps - (config.si_rounds - number) * config.si_iter
    return Span(f"round {number + 1}", start, start + config.si_iter, config.si_rate)


def phases(config: Config, steps: int) -> Iterator[Span]:
    """The base and each round, if there are any."""
    yield base_span(config, steps)
    if config.labels != "none":
        yield from (round_span(config, steps, number) for number in range(config.si_rounds))


def step_depends_on(config: Config, steps: int, step: int) -> dict[str, object]:
    """After the base, how many difficulties past its own the committee was asked at its end, where `to` is left out."""
    if config.to is not None or step < round_span(config, steps, 0).start - 1:
        return {}
    return {"method.to": max(config.target(0), DIFFICULTIES_AHEAD, config.lengths)}


def num_steps(config: Config, budget: int) -> int:
    """Steps of the base, none after a saved one, and those of the rounds."""
    return (0 if config.base is not None else budget) + config.si_rounds * config.si_iter
