"""The report of a run: one HTML page of pictures, made from a run folder alone.

The page is whole in itself: no network, no fonts or scripts from elsewhere, and a Content-Security-Policy
that allows none. What a run says (names, prompts, samples, presets) is text of unknown origin, so it enters
the page in two ways only: escaped by `escaped`, or as JSON in a data block, which no browser executes. Only two
scripts may run, plotly's and `_DRAW`; the policy names them by their hashes.

A new picture is one function from `Run` to HTML and one line in `SECTIONS`; `plot` and `line` make figures.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanogrove.atomic import write_file
from nanogrove.record.events import Event
from nanogrove.record.reading import Run, read_run
from nanogrove.reports.figures import duration, escaped, finite, line, plot, quantity, short
from nanogrove.reports.page import html_page
from nanogrove.reports.sections.calibration import calibration
from nanogrove.reports.sections.evolution import evolution
from nanogrove.reports.sections.heads import heads
from nanogrove.reports.sections.mixing import mixing
from nanogrove.reports.sections.rewards import rewards
from nanogrove.reports.sections.self_improvement import self_improvement

OLDER_SAMPLES = 50  # kept in the page besides the latest


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path; an older report is replaced whole.

    Works for finished runs and for unfinished ones. Raises RunError when the folder holds no run, or one
    whose record is damaged.
    """
    read = read_run(run)
    page = html_page(read.name, [part for section in SECTIONS if (part := section(read))])
    path = run / "report.html"
    # JSON can carry half of a surrogate pair and UTF-8 cannot; one bad character must not cost the report.
    write_file(path, page.encode("utf-8", errors="replace"))
    return path


# Sections, in the order of the page.


def headline(run: Run) -> str:
    """Title, how the run was made, and one line of key figures."""
    start, step, end = (run.last(kind) for kind in ("start", "step", "end"))
    finished = bool(run.of("end"))
    result = {**(_validation(run) or [end])[-1].values, **end.values}
    figures = {
        f"{result.get('split') or 'validation'} loss" if finished else "validation loss so far": quantity(
            result.get("loss")
        ),
        "bits per byte": quantity(result.get("bits_per_byte")),
        "training tokens": short(finite({**step.values, **end.values}.get("tokens"))),
        "training time": duration(finite({**_time(step), **_time(end)}.get("seconds"))),
        "parameters": short(finite(start.values.get("parameters"))),
    }
    cells = "".join(
        f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd></div>" for label, value in figures.items()
    )
    made = [str(start.values[key]) for key in ("method", "device", "precision") if start.values.get(key)]
    made += [f"seed {start.values['seed']}"] if "seed" in start.values else []
    made += [f"{max(step.step, end.step):,} steps"]
    badge = "" if finished else ' <span class="badge">unfinished</span>'
    return f'<h1>{escaped(run.name)}{badge}</h1><p class="made">{escaped(", ".join(made))}</p><dl>{cells}</dl>'


def curves(run: Run) -> str:
    """Loss over tokens and over time, then learning rate, gradient norm and throughput over tokens."""
    steps, evaluations = run.of("step"), _validation(run)
    if not steps:
        return "<h2>Curves</h2><p>No training step is recorded yet.</p>"

    def over(events: Sequence[Event], name: str) -> list[Any]:
        return [event.values.get(name) for event in events]

    def clock(events: Sequence[Event], name: str) -> list[Any]:
        return [_time(event).get(name) for event in events]

    tokens, seen = over(steps, "tokens"), over(evaluations, "seen")
    main = "next_token" if "next_token" in steps[-1].values else "loss"  # beside auxiliary heads loss is their sum
    train, validation = over(steps, main), over(evaluations, "loss")
    by_tokens = [*line("train", tokens, train), *line("validation", seen, validation)]
    by_time = [
        *line("train", clock(steps, "seconds"), train),
        *line("validation", clock(evaluations, "seconds"), validation),
    ]
    wide = [plot("Loss over tokens", "tokens", by_tokens), plot("Loss over time", "seconds", by_time)]
    small = [
        plot("Learning rate", "tokens", line("lr", tokens, over(steps, "lr"))),
        plot("Gradient norm", "tokens", line("gradient norm", tokens, over(steps, "grad_norm"))),
        plot("Tokens per second", "tokens", line("tokens/s", tokens, clock(steps, "tokens_per_second"))),
    ]
    note = '<p class="made">Lines are medians over the population; bands reach from lowest to highest.</p>'
    rows = "".join(f'<div class="row">{"".join(row)}</div>' for row in (wide, small))
    return f"<h2>Curves</h2>{note if any(isinstance(loss, list) for loss in train) else ''}{rows}"


def against_the_best(run: Run) -> str:
    """For data whose truth is known: loss beside the best there is, what is left to gain, and where."""
    evaluations = [event for event in _validation(run) if "bayes_loss" in event.values]
    if not evaluations:
        return ""
    data = run.last("start").values.get("data", {})
    data = data if isinstance(data, dict) else {}
    steps = [event.step for event in evaluations]

    def over(name: str) -> list[Any]:
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
        [plot("Validation loss, nats a token", "step", losses, True), plot("Excess loss", "step", excess, True)],
        [plot("Accuracy", "step", hits, True), plot("KL(best ‖ model) by position", "position", where)],
    ]
    body = "".join(f'<div class="row">{"".join(row)}</div>' for row in rows)
    trees = "".join(f"<pre>\n{escaped(drawn)}</pre>" for tree in data.get("trees") or [] if (drawn := _tree(tree)))
    shown = f"<h2>Trees of this grammar</h2>{trees}" if trees else ""
    return f"<h2>Against the best possible</h2>{body}{shown}"


def _tree(levels: Any) -> str:
    """Levels of a tree, each node centred above its leaves; empty where `levels` is no tree."""
    if not isinstance(levels, list) or not all(isinstance(level, list) and level for level in levels):
        return ""
    leaves = len(levels[-1])
    width = max(len(str(symbol)) for level in levels for symbol in level) + 2
    return "\n".join("".join(str(s).center(width * leaves // len(level)) for s in level).rstrip() for level in levels)


def samples(run: Run) -> str:
    """Text written by the model: that of the latest step in view, the older ones folded away."""
    found = run.of("sample")
    if not found:
        return ""
    latest = [event for event in found if event.step == found[-1].step]
    older = [event for event in found if event.step != found[-1].step][::-1]
    body = "".join(_sample(event) for event in latest)
    if older:
        left_out = len(older) - OLDER_SAMPLES
        more = f"<p>{left_out:,} more are in events.jsonl.</p>" if left_out > 0 else ""
        folded = "".join(_sample(event) for event in older[:OLDER_SAMPLES])
        body += f"<details><summary>{len(older):,} from earlier steps</summary>{folded}{more}</details>"
    return f"<h2>Samples</h2>{body}"


def _sample(event: Event) -> str:
    prompt = event.values.get("prompt")
    caption = f"Step {event.step:,}" + (f", prompt: {escaped(prompt)}" if prompt else "")
    text = escaped(event.values.get("text", ""))
    # The parser drops one newline right after <pre>, so the text's own first newline needs one to be dropped.
    return f'<p class="made">{caption}</p><pre dir="auto">\n{text}</pre>'


def preset(run: Run) -> str:
    """The resolved preset: what to train to have this run again."""
    pretty = escaped(json.dumps(run.preset, indent=2, ensure_ascii=False))
    return f"<h2>Preset</h2><details><summary>preset.json, resolved</summary><pre>\n{pretty}</pre></details>"


def machine(run: Run) -> str:
    """Versions, machine and data, as the start event tells them."""
    start = run.last("start").values
    groups = {key.capitalize(): start.get(key) for key in ("versions", "machine", "data")}
    left_out = {k: v for k, v in _time(run.last("end")).items() if k.startswith("left out, ")}
    groups["Left out while reading"] = left_out
    groups["Run"] = {key: start[key] for key in ("device", "precision", "compile", "vocabulary") if key in start}
    if isinstance(groups["Data"], dict):
        groups["Data"] = {key: value for key, value in groups["Data"].items() if key != "trees"}  # drawn above
    filled = {title: group for title, group in groups.items() if isinstance(group, dict) and group}
    tables = "".join(_table(title, group) for title, group in filled.items())
    return f'<h2>Versions and machine</h2><div class="row">{tables}</div>' if tables else ""


def _table(title: str, group: dict[str, Any]) -> str:
    cells = (
        (escaped(key.replace("_", " ")), escaped(_cell(value))) for key, value in group.items() if value is not None
    )
    rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in cells)
    return f"<table><caption>{title}</caption>{rows}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _validation(run: Run) -> list[Event]:
    return [event for event in run.of("eval") if event.values.get("split", "validation") == "validation"]


def _time(event: Event) -> dict[str, Any]:
    return event.time if isinstance(event.time, dict) else {}


SECTIONS: tuple[Callable[[Run], str], ...] = (
    headline,
    self_improvement,
    evolution,
    rewards,
    curves,
    mixing,
    heads,
    against_the_best,
    calibration,
    samples,
    preset,
    machine,
)
