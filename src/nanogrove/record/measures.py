"""Measures: what methods and tasks are judged by, in tables that everything reads that shows a figure.

A figure lies under its measure's name in an `eval` or `end` event, a number, or for a population a list of one for each
member. The terminal, the head of the report, the record, `nanogrove evaluate` and trackers have every figure of
`MEASURES`; trackers show all numbers of an event by their names, and need no table.

A new measure is one line: where it follows from other figures, it says how, as perplexity would,

    Measure("perplexity", "perplexity", derived=Derived(math.exp, ("loss",))),

and where it does not, whoever makes the event adds the figure.

The best checkpoint is the one of the lowest `score`, or the lowest loss where an event has no score. A score is always
a cost: that of a measure of which more is better is the figure times −1 (`Measure.cost`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple, Protocol, Self, TypeVar

from nanogrove.record.events import Values

Figures = Mapping[str, object]
Better = Literal["lower", "higher"]


class Negatable(Protocol):
    """A number, or a tensor of them."""

    def __neg__(self) -> Self: ...


N = TypeVar("N", bound=Negatable)


class Derived(NamedTuple):
    """How a figure follows from others: a function of numbers, and the names of these, of one member."""

    function: Callable[..., float]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Measure:
    """One thing that models are judged by.

    Args:
        name: the key of its figure.
        label: what it is called; empty where the terminal does not show it.
        unit: of the figure.
        better: which figures are the better ones.
        text: how the terminal says it, with {} for the figure; label, figure and unit where left out.
        digits: decimals of the figure in the terminal.
        joined: what stands between it and the measure before it.
        title: of its picture or row in the report; of `MEASURES` those with a title have a picture among the curves.
        headline: whether it is one of the figures at the head of the report.
        reference: the key of what it is compared with: the best there is, or what needs no learning.
        reference_label: what that is called.
        error: the key of its standard error.
        by: the key of the list that its list of figures is over, as in positions of a sequence.
        given: the key of another figure that must be there; the first of several measures of one name applies.
        derived: how it follows from other figures, where it does.
    """

    name: str
    label: str = ""
    unit: str = ""
    better: Better = "lower"
    text: str = ""
    digits: int = 4
    joined: str = ", "
    title: str = ""
    headline: bool = True
    reference: str = ""
    reference_label: str = "best possible"
    error: str = ""
    by: str = ""
    given: str = ""
    derived: Derived | None = None

    def applies(self, figures: Figures) -> bool:
        """Whether these figures hold one of this measure."""
        return all(key in figures for key in (self.name, self.given, self.by) if key)

    def cost(self, figure: N) -> N:
        """The figure, or its negative where more is better: of two the lower cost is the better one."""
        return figure if self.better == "lower" else -figure

    def phrase(self, figures: Figures) -> str:
        """The figure in words, with its standard error and what it is compared with where these are known."""
        text = self.text or " ".join(filter(None, (self.label, "{}", self.unit)))
        phrase = text.format(self._figure(figures, self.name, self.error))
        if self.reference in figures:
            phrase += f", {self.reference_label} {self._figure(figures, self.reference, f'{self.reference}_error')}"
        return phrase

    def _figure(self, figures: Figures, name: str, error: str) -> str:
        figure = number(figures[name], self.digits)
        return f"{figure} ± {number(figures[error], self.digits)}" if error in figures else figure


def number(figure: object, digits: int = 4) -> str:
    """A figure; of a population of more than four its least, median and greatest; `none` where there is none."""
    if isinstance(figure, (int, float)):
        return f"{figure:.{digits}f}"
    if not isinstance(figure, (list, tuple)):
        return "none"
    if len(figure) <= 4:
        return " ".join(number(each, 3) for each in figure)
    known = [each for each in figure if isinstance(each, (int, float))]
    return f"{min(known):.3f} to {max(known):.3f}, median {median(known):.3f}" if known else "none"


MEASURES = (
    Measure("loss", "loss", "scale of rewards squared", text="loss {}", given="correlation"),  # of a reward model
    Measure("loss", "loss", "nats per token", reference="bayes_loss"),
    Measure("member_loss", "mean of members", "nats per token", headline=False),
    Measure("student_loss", "its student", "nats per token"),
    Measure("exact_match", "exact match", better="higher", title="Exact match", error="exact_match_error"),
    Measure("correlation", "correlation", "with the true reward", "higher"),
    Measure("in_order", "preference accuracy", better="higher", title="Preference accuracy", error="in_order_error"),
    Measure("margin", "margin", "nats per pair", "higher", title="Margin of pairs", error="margin_error"),
    Measure("chosen_log_prob", "log-probability of chosen texts", better="higher", digits=2, headline=False),
    Measure("rejected_log_prob", "and of rejected ones", "nats per text", digits=2, joined=" ", headline=False),
    Measure(
        "bits_per_byte",
        "bits per byte",
        text="{} bits per byte",
        derived=Derived(lambda loss, size: loss / (math.log(2) * size), ("loss", "bytes_per_token")),
    ),
    Measure("excess", "excess", error="excess_error", headline=False),
    Measure(
        "accuracy",
        "accuracy",
        better="higher",
        joined="; ",
        reference="bayes_accuracy",
        headline=False,
    ),
    Measure("kl", "KL(best possible || model)", by="positions", headline=False),
    Measure(
        "reward",
        "reward of samples",
        better="higher",
        error="reward_error",
        reference="reward_before",
        reference_label="before",
    ),
    Measure("kl", "KL from the reference", "nats per token"),
    Measure("mean_logits_loss", "mean of logits", "nats per token", headline=False),
    Measure("disagreement_rank", "rank correlation with the error of disagreement", better="higher", headline=False),
    Measure("entropy_rank", "and of entropy", better="higher", joined=" ", headline=False),
)

REWARD = Measure("mean", "reward of samples", better="higher", error="error")  # of a `reward` event

# of an `auxiliary` event, under `measures`
HEADS = (
    Measure("value_r2", "value R²", better="higher", title="Value: share of the variance explained"),
    Measure("value_error", unit="nats per token", title="Value: error"),
    Measure(
        "latent_cosine",
        "latent cosine",
        better="higher",
        title="Dynamics: cosine with the true state, k steps on",
        reference="latent_copying",
    ),
    Measure(
        "span_accuracy",
        "spans",
        better="higher",
        title="Spans recognised among those of the batch",
        reference="span_chance",
    ),
    Measure("multi_token_accuracy", "tokens ahead right", better="higher", title="Tokens ahead: accuracy"),
    Measure("multi_token_loss", unit="nats per token", title="Tokens ahead: loss"),
    Measure("policy_kl", "policy KL", title="Policy: KL from its target", reference="policy_kl_of_model"),
    Measure("policy_entropy", unit="nats", title="Policy: entropy"),
    Measure("memory_loss", unit="nats per token", title="Memory: loss of the segment before"),
    Measure("memory_accuracy", unit="share of tokens", better="higher", title="Memory: accuracy on the segment before"),
)

# of `calibration.json`, before and after a temperature is applied
CALIBRATION = (
    Measure("nll", "NLL, nats"),
    Measure("ece_width", "ECE, equal width", title="ECE, 15 bins of equal width"),
    Measure("ece_mass", "ECE, equal mass", title="ECE, 15 bins of equal mass"),
    Measure("ece_debiased", "ECE, debiased", title="the same debiased, root mean square"),
    Measure("ece_debiased_low", "  95 %: from", title="95 % interval, from"),
    Measure("ece_debiased_high", "  95 %: to", title="95 % interval, to"),
    Measure("brier", "Brier score"),
    Measure("confidence", better="higher", title="mean confidence"),
    Measure("accuracy", "accuracy", better="higher"),
)


def measured(figures: Figures) -> list[Measure]:
    """The measures of `MEASURES` that these figures hold, one of each name, in order."""
    chosen: dict[str, Measure] = {}
    for measure in MEASURES:
        if measure.applies(figures):
            chosen.setdefault(measure.name, measure)
    return list(chosen.values())


def pictured() -> list[Measure]:
    """The measures with a picture among the curves of a report, in order."""
    return [measure for measure in MEASURES if measure.title]


def described(figures: Figures) -> str:
    """All figures of `MEASURES` in words, less those that are lists over something."""
    shown = [measure for measure in measured(figures) if not measure.by]
    return "".join((measure.joined if n else "") + measure.phrase(figures) for n, measure in enumerate(shown))


def derived(values: Values, **facts: float | None) -> Values:
    """The figures that follow from those of an event, and from facts that are not figures, such as `bytes_per_token`.

    None of those that need a figure or a fact that is not there.
    """
    figures: Values = {}
    for measure in MEASURES:
        if measure.derived is not None:
            known = {**values, **facts, **figures}
            arguments = [known[name] for name in measure.derived.names if known.get(name) is not None]
            if len(arguments) == len(measure.derived.names):
                figures[measure.name] = _by_member(measure.derived.function, arguments)
    return figures


def _by_member(function: Callable[..., float], arguments: Sequence[float | list[float]]) -> float | list[float]:
    """A function of numbers, member by member where an argument is a list."""
    members = [len(argument) for argument in arguments if isinstance(argument, list)]
    if members:
        rows = [argument if isinstance(argument, list) else [argument] * members[0] for argument in arguments]
        return [function(*row) for row in zip(*rows, strict=True)]
    return function(*arguments)


def of_member(values: Values, member: int) -> Values:
    """The figures of one member of a population: lists are by member, but for those that figures are over."""
    common = {measure.by for measure in MEASURES}
    return {
        name: value[member] if isinstance(value, list) and name not in common else value
        for name, value in values.items()
    }


def costs(values: Values) -> list[float]:
    """What a checkpoint is chosen by, the lower the better: one number, or one for each member of a population."""
    cost = values["score"] if "score" in values else values["loss"]
    return cost if isinstance(cost, list) else [cost]
