"""The pictures of learning from samples: their rewards, how many taught nothing, their length and entropy, the KL."""

from collections.abc import Sequence

from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, line, noisy
from nanogrove.reports.sections.curves import over

NOTE = (
    "Each step learns from samples of the model as it then was. A group, the samples of one prompt, teaches nothing "
    "where all have the same reward. Entropy is the mean −log π of sampled tokens. The KL is exact on held-out texts, "
    "and an estimate on samples."
)


def policy_gradient(run: Run) -> str:
    """Figures of the samples of each step over tokens, and what evaluations found."""
    steps = [event for event in run.of("step") if "no_signal" in event.values]
    evaluations = [event for event in run.evaluations() if "kl" in event.values]
    clipped = steps if any(over(steps, "clipped")) else []  # of one update on samples none is
    pictures = [
        [
            _drawn("Reward of the samples of a step", "mean reward", steps, "reward"),
            _drawn("Groups that teach nothing", "share of prompts", steps, "no_signal"),
        ],
        [
            _drawn("Entropy of samples", "nats per token", steps, "entropy"),
            plot("KL from the reference", "tokens", "nats per token", _divergences(steps, evaluations)),
        ],
        [
            _drawn("Length of samples", "tokens", steps, "length"),
            _drawn("Clipped ratios", "share of tokens or samples", clipped, "clipped"),
        ],
    ]
    return f'<h2>Policy gradient</h2><p class="note">{NOTE}</p>{rows(pictures)}'


def _drawn(title: str, unit: str, steps: Sequence[Event], figure: str) -> str:
    """A figure of each step over tokens."""
    return plot(title, "tokens", unit, noisy("samples", over(steps, "tokens"), over(steps, figure)))


def _divergences(steps: Sequence[Event], evaluations: Sequence[Event]) -> list[Line]:
    """The KL on samples, where the loss has one, and on held-out texts."""
    return [
        *noisy("on samples", over(steps, "tokens"), over(steps, "kl")),
        *line("on held-out texts", over(evaluations, "seen"), over(evaluations, "kl")),
    ]
