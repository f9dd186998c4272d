"""For data whose truth is known: how far a model is from the best there is."""

from nanogrove.record.events import Values
from nanogrove.record.reading import Run
from nanogrove.reports.evaluations import banded
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, line
from nanogrove.reports.values import escaped

NATS = "nats per token"
MAX_TREES = 8


def best_possible(run: Run) -> str:
    """For data whose truth is known: loss beside the best there is, what is left to gain, and where."""
    evaluations = [event for event in run.evaluations() if "bayes_loss" in event.values]
    data = run.last("start").values.get("data", {})
    data = data if isinstance(data, dict) else {}
    steps = [event.step for event in evaluations]

    def over(name: str) -> list[object]:
        return [event.values.get(name) for event in evaluations]

    losses = [*line("model", steps, over("loss")), *line("best possible", steps, over("bayes_loss"), "reference")]
    for name, key in (("bigram", "bigram_loss"), ("ln v", "uniform_loss")):
        losses += line(name, steps, [data.get(key)] * len(steps), "reference")
    bands = [banded(*pair) for pair in zip(over("excess"), over("excess_error"), strict=True)]
    hits = [*line("model", steps, over("accuracy")), *line("best possible", steps, over("bayes_accuracy"), "reference")]
    where = _by_position(evaluations[-1].values)
    excess = line("excess", steps, bands)
    pictures = [
        [
            plot("Validation loss", "step", NATS, losses, log_x=True),
            plot("Loss above the best possible, two standard errors", "step", NATS, excess, log_x=True),
        ],
        [
            plot("Accuracy", "step", "share of tokens", hits, log_x=True),
            plot("KL(best possible ‖ model) by position, at the end", "position", NATS, where),
        ],
    ]
    body = rows(pictures)
    return f"<h2>Against the best possible</h2>{body}{_trees(data.get('trees'))}"


def _by_position(values: Values) -> list[Line]:
    """The KL divergence at each position where there are several, of a population a median with a band."""
    positions, kl = values.get("positions"), values.get("kl")
    if not isinstance(positions, list) or not isinstance(kl, list) or len(positions) < 2:
        return []
    if kl and all(isinstance(member, list) for member in kl):
        kl = [list(members) for members in zip(*kl, strict=False)]
    return line("KL", positions, kl) if len(kl) == len(positions) else []


def _trees(trees: object) -> str:
    """A heading and the first trees of a list."""
    known = [drawn for tree in trees[:MAX_TREES] if (drawn := _tree(tree))] if isinstance(trees, list) else []
    drawings = "".join(f'<pre class="tree">\n{escaped(drawn)}</pre>' for drawn in known)
    return f"<h3>Trees of this grammar</h3>{drawings}" if known else ""


def _tree(levels: object) -> str:
    """Levels of a tree, each node centred above its leaves; empty where `levels` is not a tree."""
    if not isinstance(levels, list) or not all(isinstance(level, list) and level for level in levels):
        return ""
    leaves = len(levels[-1])
    width = max(len(str(symbol)) for level in levels for symbol in level) + 2
    return "\n".join("".join(str(s).center(width * leaves // len(level)) for s in level).rstrip() for level in levels)
