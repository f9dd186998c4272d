"""What the rounds remember, and the guard: whether a round is kept or undone, by agreement and losses alone."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple, NotRequired, cast

import numpy as np
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from nanogrove.evaluate.committee import Survey
from nanogrove.methods.self_improve.config import Config
from nanogrove.record.events import Values
from nanogrove.settings import Count
from nanogrove.synthetic.examples import TaskCorpus
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState, check_moments

MIN_PROMPTS = 5  # validation prompts of a difficulty; on fewer, one prompt moves agreement by more than a fifth


Name = Annotated[str, Field(pattern="^round-[0-9]{1,9}$")]  # of the rows in the run folder, so of a file
Difficulty = Annotated[int, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Difficulties = dict[Annotated[str, Field(pattern="^[0-9]{1,6}$")], float]


class AcceptedRound(TypedDict):
    """A round whose labels all later rounds train on."""

    name: Name
    difficulties: list[Difficulty]
    rows: NotRequired[Count]  # labels that were kept; runs of earlier versions do not say


class CurrentRound(TypedDict):
    """The round under way; the event `round` has all but the last four."""

    round: Count
    difficulties: list[Difficulty]
    labels: list[Values]  # figures by difficulty
    rows: Count  # labels that were kept; 0 where the round trains on older data alone
    strict: bool
    short: NotRequired[str]  # why `rows` is 0
    name: Name
    decode: float  # seconds that labelling took
    trained: float  # `TrainState.seconds` when the round began
    consensus: NotRequired[Share]  # of the voters on the prompts of the round, where there is more than one voter


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
        inherited: the product of the consensus of all rounds trained on (`evaluate/reliability.py`).
        votes: whose votes count, where base problems decide that.
        current: the round under way.
        ended: why there are no more rounds.
    """

    frontier: Difficulty
    accepted: list[AcceptedRound]
    agreement: Difficulties
    firmest: Difficulties
    least: list[float]
    strict: Count
    settled: Count
    inherited: NotRequired[Share]
    votes: NotRequired[list[bool]]
    current: NotRequired[CurrentRound]
    ended: NotRequired[str]


def check_kept(state: TrainState, corpus: TaskCorpus, plan: Plan, config: Config) -> None:
    """Raises ValueError where difficulties lie outside those of the run, or a part of the rounds is missing."""
    kept = cast(Progress, state.method_state)
    target, past = config.target(corpus.base[1]), state.step - (plan.steps - config.si_rounds * config.si_iter)
    rounds: list[AcceptedRound | CurrentRound] = [*kept["accepted"]]
    if "current" in kept:
        rounds.append(kept["current"])
    difficulties = [kept["frontier"], *(difficulty for known in rounds for difficulty in known["difficulties"])]
    if min(difficulties) < corpus.base[0] or max(difficulties) > target or kept["frontier"] < corpus.base[1]:
        raise ValueError(f"it opens a difficulty outside {corpus.base[1]} to {target}")
    if any(int(known) > target and not corpus.fits(int(known)) for known in kept["firmest"]):
        raise ValueError("it has the agreement at a difficulty that the model cannot read")
    if "votes" in kept and (len(kept["votes"]) != config.voters or sum(kept["votes"]) < 2):
        raise ValueError("it does not say of each voter whether its vote counts, or counts fewer than two")
    if config.labels == "none" or past < 0:
        return
    if len(kept["least"]) != len(kept["accepted"]) + 1:
        raise ValueError("it does not have a loss for the base and for each accepted round")
    current, under_way = kept.get("current"), past % config.si_iter > 0 and "ended" not in kept
    if under_way and current is None:
        raise ValueError("its step is within a round, and no round is under way")
    if current is not None and under_way and current["rows"] and config.guard:
        check_saved(state)


def check_saved(state: TrainState) -> None:
    """Raises ValueError unless `state.method_tensors` are what a round can fall back to, as `save_tensors` kept it."""
    kinds = ("weights",) if state.average is None else ("weights", "average")
    for kind in kinds:
        kept = kept_as(kind, state.method_tensors)
        for name, parameter in state.named_parameters():
            saved, what = kept.get(name), "weight" if kind == "weights" else "average of"
            if saved is None or saved.shape != parameter.shape or saved.dtype != parameter.dtype:
                raise ValueError(
                    f"the {what} {name} that its round falls back to is missing, or of another shape or type"
                )
    check_moments(state, kept_as("moments", state.method_tensors))


def kept_as(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the tensors that a round can fall back to the `weights`, the `moments` or the `average`, by their names."""
    return {name.removeprefix(f"{kind}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}/")}


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
    """Makes the committee as it is what later states are compared with, and has those vote who may."""
    if not all(survey.votes) or "votes" in progress:
        progress["votes"] = survey.votes
    progress["agreement"] = known = agreements(survey)
    firmest, least, now = progress["firmest"], progress["least"], losses.means()
    firmest |= {d: max(share, firmest.get(d, 0.0)) for d, share in known.items()}
    progress["least"] = [min(pair) for pair in zip(least, now, strict=False)] + now[len(least) :]


def mean_consensus(labels: list[Values]) -> float:
    """The consensus on the prompts of a round, by its figures; 1 where there is none."""
    known = [(label["prompts"], label["consensus"]) for label in labels if label["consensus"] is not None]
    prompts = sum(count for count, _ in known)
    return min(sum(count * share for count, share in known) / prompts, 1.0) if prompts else 1.0


def inherit(progress: Progress) -> None:
    """Counts the errors of the likeliest answers of the current round, which is kept, among those that voters share."""
    progress["inherited"] = progress.get("inherited", 1.0) * progress["current"].get("consensus", 1.0)


def label_problem(config: Config, labels: list[Values]) -> str | None:
    """Why a round must not train on its labels, or None: too few of them are likely to be right."""
    for label in labels:
        share = label["trust"]
        if config.guard_trust is not None and share is not None and share < config.guard_trust:
            return (
                f"an estimated {share:.4g} of the labels of difficulty {label['difficulty']} are right, and "
                f"method.guard_trust is {config.guard_trust}; train the base longer, or set a lower one in a new run"
            )
    return None


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
