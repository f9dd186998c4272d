"""What the rounds remember, and the guard: whether a round is kept or undone, by agreement and losses alone."""

from typing import NamedTuple, NotRequired, TypedDict

import numpy as np

from nanogrove.evaluate.committee import Survey
from nanogrove.methods.self_improve.config import Config
from nanogrove.record.events import Values
from nanogrove.synthetic.examples import TaskCorpus

MIN_PROMPTS = 5  # validation prompts of a difficulty; on fewer, one prompt moves agreement by more than a fifth


class AcceptedRound(TypedDict):
    """A round whose labels all later rounds train on."""

    name: str
    difficulties: list[int]


class CurrentRound(TypedDict):
    """The round under way; the event `round` has all but the last three."""

    round: int
    difficulties: list[int]
    labels: list[Values]  # figures by difficulty
    rows: int  # labels that were kept; 0 where the round trains on older data alone
    strict: bool
    short: NotRequired[str]  # why `rows` is 0
    name: str
    decode: float  # seconds that labelling took
    trained: float  # `TrainState.seconds` when the round began


class Progress(TypedDict):
    """`TrainState.method_state` of a run under way, JSON.

    Args:
        frontier: the hardest open difficulty.
        accepted: the rounds trained on.
        agreement: by difficulty, of the last state that was kept.
        firmest: the highest agreement by difficulty among all states that were kept.
        least: the lowest losses among these, on base data and on the labels of each accepted round.
        strict: how often the next difficulty was tried in vain.
        settled: rounds that were not undone.
        current: the round under way.
        ended: why there are no more rounds.
    """

    frontier: int
    accepted: list[AcceptedRound]
    agreement: dict[str, float]
    firmest: dict[str, float]
    least: list[float]
    strict: int
    settled: int
    current: NotRequired[CurrentRound]
    ended: NotRequired[str]


class Losses(NamedTuple):
    """`base`, the values of `evaluate_split` on held-out base examples, and the losses `[rounds][P]` on labels."""

    base: Values
    labels: list[list[float]]

    def means(self) -> list[float]:
        """Means over the voters, the base first."""
        return [float(np.mean(loss)) for loss in (self.base["loss"], *self.labels)]


def agreements(survey: Survey) -> dict[str, float]:
    """Agreement by difficulty, which is text in JSON; empty for a single voter."""
    pairs = zip(survey.difficulties, survey.agreement, strict=True)
    return {str(difficulty): share for difficulty, share in pairs if share is not None}


def commit_round(progress: Progress, survey: Survey, losses: Losses) -> None:
    """Makes the committee as it is what later states are compared with."""
    progress["agreement"] = known = agreements(survey)
    firmest, least, now = progress["firmest"], progress["least"], losses.means()
    firmest |= {d: max(share, firmest.get(d, 0.0)) for d, share in known.items()}
    progress["least"] = [min(pair) for pair in zip(least, now, strict=False)] + now[len(least) :]


def base_problem(config: Config, progress: Progress, hardest: int) -> str | None:
    """Why rounds must not begin from a base that learned nothing, or None; `hardest` is its hardest difficulty."""
    agreed = progress["agreement"].get(str(hardest), 1.0)
    if not config.guard or agreed >= config.guard_agreement:
        return None
    return f"agreement at base difficulty {hardest} is {agreed:.2f}, so the base needs more steps"


def alarm(config: Config, progress: Progress, corpus: TaskCorpus, survey: Survey, losses: Losses) -> str | None:
    """Why the current round is to be undone, or None where it is kept."""
    return _agreement_problem(config, progress, corpus, survey) or _loss_problem(config, progress, losses)


def _agreement_problem(config: Config, progress: Progress, corpus: TaskCorpus, survey: Survey) -> str | None:
    """Where the voters agree too little after the round."""
    now = agreements(survey)
    for difficulty, before in progress["firmest"].items():
        after, prompts = now.get(difficulty, before), corpus.held_out(int(difficulty), "validation")
        opened = int(difficulty) <= progress["frontier"]
        if opened and before - after > config.guard_drop and len(set(prompts)) >= MIN_PROMPTS:
            return f"agreement at difficulty {difficulty} fell from {before:.2f} to {after:.2f}"
    for new in progress["current"]["difficulties"]:
        after = now.get(str(new), 1.0)
        if new > progress["frontier"] and after < config.guard_agreement:
            return f"agreement at difficulty {new} is {after:.2f} after the round"
    return None


def _loss_problem(config: Config, progress: Progress, losses: Losses) -> str | None:
    """Which data the voters forgot, or did not learn; labels that follow no rule cannot be learned."""
    *earlier, newest = losses.means()
    for number, (before, after) in enumerate(zip(progress["least"], earlier, strict=True)):
        if not after - before <= config.guard_loss:
            data = "base data" if not number else f"the labels of {progress['accepted'][number - 1]['name']}"
            return f"the loss on {data} rose by {after - before:.3f} nats per token"
    if not newest <= config.guard_fit:
        return f"the loss on the round's own labels is {newest:.3f} nats per token after it"
    return None
