"""The pictures of learning from scored texts: the rewards, and objective and KL as training goes on."""

from collections.abc import Sequence

from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports.evaluations import banded
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, bars, line
from nanogrove.reports.phases import phases
from nanogrove.reports.sections.samples import text
from nanogrove.reports.values import capital, decimal, escaped, finite, quantity

KL = "KL from the reference, nats per token"


def rewards(run: Run) -> str:
    """The distribution of scored texts, or the rewards of a model's own texts by round; objective and KL beside."""
    texts, rounds = run.last("rewards").values, run.of("reward")
    evaluations = [event for event in run.of("eval") if "kl" in event.values]
    steps = [event.step for event in evaluations]
    kl, score = ([event.values.get(name) for event in evaluations] for name in ("kl", "score"))
    means = {event.step: finite(event.values.get("mean")) for event in rounds}
    objective, unit = _objective(run)
    gained, what = ([means.get(step) for step in steps], "mean reward") if rounds else (score, objective)
    fresh = [line("reward", [event.values.get("round") for event in rounds], _bands(rounds))]
    pictures = [
        [
            plot("Rewards of the training texts", "reward", "texts", _histogram(texts.get("histogram"))),
            plot("Reward of fresh texts, two standard errors", "round", "mean reward", *fresh),
            plot(f"{capital(what)} against KL", KL, what if rounds else unit, _pairs(what, kl, gained)),
        ],
        [
            plot("KL from the reference", "step", "nats per token", line("KL", steps, kl)),
            plot("Correlation with the true reward, higher is better", "step", "correlation", _correlations(run)),
        ],
        [
            plot("Log-probability of held-out texts", "step", "nats per text", _log_probs(run, "log_prob")),
            plot("Log-probability per token", "step", "nats per token", _log_probs(run, "log_prob_per_token")),
        ],
    ]
    body = rows(pictures)
    summary = _summary(texts, evaluations)
    note = f'<p class="note">{escaped(summary)}</p>' if summary else ""
    return f"<h2>Rewards</h2>{note}{body}{_side_by_side(run, rounds)}"


def _objective(run: Run) -> tuple[str, str]:
    """What a score of held-out texts is, with its unit: the objective of the run's last phase."""
    last = phases(run)[-1:]
    return (last[0].objective, last[0].unit or last[0].objective) if last else ("objective", "objective")


def _side_by_side(run: Run, rounds: list[Event]) -> str:
    """What the model wrote after the same prompts before the first round, and after the one that was kept."""
    if len(rounds) < 2:
        return ""
    kept = [event for event in rounds[1:] if event.step == run.last("end").values.get("best_step")]
    after = (kept or rounds)[-1]
    pairs = zip(_texts(rounds[0]), _texts(after), strict=False)
    body = "".join(f'<div class="row">{_text("before", a)}{_text("after", b)}</div>' for a, b in pairs)
    title = f"Before the first round, and after round {after.values.get('round')}"
    return f"<h3>{escaped(title)}</h3>{body}" if body else ""


def _texts(event: Event) -> list[dict[str, object]]:
    texts = event.values.get("texts")
    return [sample for sample in texts if isinstance(sample, dict)] if isinstance(texts, list) else []


def _text(when: str, sample: dict[str, object]) -> str:
    caption = f"{when}, reward {quantity(sample.get('reward'), 2)}; prompt: {sample.get('prompt')}"
    return f'<div><p class="note">{escaped(caption)}</p>{text(sample.get("text"))}</div>'


def _correlations(run: Run) -> list[Line]:
    """The correlation of a reward model's numbers at the end of held-out texts."""
    known = [event for event in run.of("eval") if "correlation" in event.values]
    return line("correlation", [event.step for event in known], [event.values["correlation"] for event in known])


def _log_probs(run: Run, figure: str) -> list[Line]:
    """The mean log-probabilities of chosen and of rejected texts, those of the reference first."""
    known = [event for event in (*run.of("rewards"), *run.of("eval")) if f"chosen_{figure}" in event.values]
    steps = [event.step for event in known]
    return [
        part
        for side in ("chosen", "rejected")
        for part in line(side, steps, [event.values.get(f"{side}_{figure}") for event in known])
    ]


def _displacement(values: dict[str, object], evaluations: list[Event]) -> list[str]:
    """What became of the likelihood of chosen and rejected texts from the reference to the last evaluation."""
    sentences, last = [], evaluations[-1].values if evaluations else {}
    for side in ("chosen", "rejected"):
        first, now = finite(values.get(f"{side}_log_prob")), finite(last.get(f"{side}_log_prob"))
        if first is not None and now is not None:
            sentences.append(f"held-out {side} texts went from {decimal(first, 2)} to {decimal(now, 2)} nats per text")
            if side == "chosen" and now < first:
                sentences.append("chosen texts are less likely than to the reference; method.nll_weight holds them up")
    return sentences


def _summary(values: dict[str, object], evaluations: list[Event]) -> str:
    count, size = finite(values.get("texts")), finite(values.get("effective_sample_size"))
    sentences = []
    if count:
        sentences += [
            f"{count:,.0f} texts" if size is None else f"effective sample size: {size:,.0f} of {count:,.0f} texts"
        ]
    explained = finite(values.get("value_r2"))
    sentences += [] if explained is None else [f"V explains {explained:.1%} of the variance of rewards, held out"]
    for side in ("wanted", "unwanted"):
        number = finite(values.get(side))
        sentences += (
            [] if number is None else [f"{number:,.0f} {side}, of weight {quantity(values.get(f'{side}_weight'))} each"]
        )
    sentences += _displacement(values, evaluations)
    sentences += [f"training ended: {event.values['ended']}" for event in evaluations if event.values.get("ended")]
    return "; ".join(sentences)


def _bands(rounds: list[Event]) -> list[object]:
    """Mean rewards, with bands of two standard errors."""
    return [banded(event.values.get("mean"), event.values.get("error")) for event in rounds]


def _pairs(name: str, x: Sequence[object], y: Sequence[object]) -> list[Line]:
    """One figure over another, in the order of the first."""
    known = [(finite(a), finite(b)) for a, b in zip(x, y, strict=True)]
    points = sorted((a, b) for a, b in known if a is not None and b is not None)
    return line(name, [a for a, _ in points], [b for _, b in points])


def _histogram(histogram: object) -> list[Line]:
    """Counts of texts between edges of rewards."""
    values = histogram if isinstance(histogram, dict) else {}
    return bars("texts", values.get("edges"), values.get("counts"))
