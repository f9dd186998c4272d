"""For data whose truth is known: how far a model is from the best there is."""

from nanogrove.record.reading import Run
from nanogrove.reports.figures import escaped, finite, line, plot


def best_possible(run: Run) -> str:
    """For data whose truth is known: loss beside the best there is, what is left to gain, and where."""
    evaluations = [event for event in run.evaluations() if "bayes_loss" in event.values]
    data = run.last("start").values.get("data", {})
    data = data if isinstance(data, dict) else {}
    steps = [event.step for event in evaluations]

    def over(name: str) -> list[object]:
        return [event.values.get(name) for event in evaluations]

    losses = [*line("model", steps, over("loss")), *line("best", steps, over("bayes_loss"), reference=True)]
    for name, key in (("bigram", "bigram_loss"), ("ln v", "uniform_loss")):
        losses += line(name, steps, [data.get(key)] * len(steps), reference=True)
    bands = [
        [middle - error, middle, middle + error] if error is not None and middle is not None else excess
        for excess, error in zip(over("excess"), over("excess_error"), strict=True)
        for middle, error in [(finite(excess), finite(error))]
    ]
    hits = [*line("model", steps, over("accuracy")), *line("best", steps, over("bayes_accuracy"), reference=True)]
    last = evaluations[-1].values
    positions, kl = last.get("positions") or [], last.get("kl") or []
    if kl and isinstance(kl[0], list):  # of a population, member by member
        kl = [list(members) for members in zip(*kl, strict=True)]
    where = line("KL", positions, kl) if len(positions) > 1 else []
    excess = line("excess", steps, bands)
    rows = [
        [plot("Validation loss, nats per token", "step", losses, True), plot("Excess loss", "step", excess, True)],
        [plot("Accuracy", "step", hits, True), plot("KL(best ‖ model) by position", "position", where)],
    ]
    body = "".join(f'<div class="row">{"".join(row)}</div>' for row in rows)
    trees = "".join(f"<pre>\n{escaped(drawn)}</pre>" for tree in data.get("trees") or [] if (drawn := _tree(tree)))
    shown = f"<h2>Trees of this grammar</h2>{trees}" if trees else ""
    return f"<h2>Against the best possible</h2>{body}{shown}"


def _tree(levels: object) -> str:
    """Levels of a tree, each node centred above its leaves; empty where `levels` is not a tree."""
    if not isinstance(levels, list) or not all(isinstance(level, list) and level for level in levels):
        return ""
    leaves = len(levels[-1])
    width = max(len(str(symbol)) for level in levels for symbol in level) + 2
    return "\n".join("".join(str(s).center(width * leaves // len(level)) for s in level).rstrip() for level in levels)
