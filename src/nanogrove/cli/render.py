"""How a run looks while it runs: a live line on a terminal, plain lines elsewhere.

What the terminal says of an event is a function in the table `LINES`, by the kind of the event. A new kind is one line
there; one that is not in it is not shown.
"""

import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nanogrove.cli.text import printable
from nanogrove.cli.waits import wait_line
from nanogrove.record.events import Event, Values
from nanogrove.record.measures import CALIBRATION, HEADS, REWARD, described, measured, number

PLAIN_SECONDS = 10.0  # between two plain lines of progress
LEAST_BAR_COLUMNS = 70  # of a terminal; on a narrower one the bar and the rate would leave no room for the rest


@dataclass
class View:
    """What a line may depend on beside its event: the run's folder, its steps, and the budget that was replaced."""

    out: Path
    replaced: str | None = None
    steps: int = 0


def show(events: Iterable[Event], console: Console, out: Path, replaced: str | None = None) -> int | None:
    """Shows a run's events as they come; returns the number of the signal that stopped it, None for a full run.

    `replaced` is the preset's budget where the command line gave another.
    """
    view, stopped = View(out, replaced), None
    with _progress(console) as progress:
        live = Live(console, progress)
        for event in events:
            if event.kind == "step":
                live.step(event, view.steps)
                continue
            if event.kind in ("start", "resume"):
                view.steps = event.values.get("steps", view.steps)
            if event.kind == "stop":
                stopped = int(event.values["signal"])
            if event.kind in LINES:
                text = LINES[event.kind](event, view)
                if text is not None:
                    live.say(text)
    return stopped


class Live:
    """Lines above a bar of progress, where there is a terminal for one; else lines alone, of progress few."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self.console, self.progress, self.shown = console, progress, 0.0
        self.task = (
            TaskID(0) if progress is None else progress.add_task("", total=None, visible=False, loss="", rate="")
        )

    def say(self, text: str) -> None:
        """Shows a line, or several."""
        (self.progress.console if self.progress else self.console).print(text, highlight=False, soft_wrap=True)

    def step(self, event: Event, steps: int) -> None:
        """Moves the bar, or says now and then how far a run of so many `steps` has come; 0 if that is not known."""
        loss, rate = f"loss {number(event.values['loss'])}", f"{event.time['tokens_per_second']:,.0f} tokens/s"
        if self.progress:
            self.progress.update(
                self.task, completed=event.step, total=steps or None, visible=True, loss=loss, rate=rate
            )
        elif time.monotonic() - self.shown > PLAIN_SECONDS:
            self.shown = time.monotonic()
            self.say(f"step {event.step}{f' of {steps}' if steps else ''}  {loss}  {rate}")


class Bar(Progress):
    """A bar of progress, with a line below it of what is waited for between two steps."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, once there is a step, and the line."""
        yield from super().get_renderables()
        yield wait_line()


@contextmanager
def _progress(console: Console) -> Iterator[Progress | None]:
    if not console.is_terminal:
        yield None
        return
    narrow = console.width < LEAST_BAR_COLUMNS
    columns = (
        *(() if narrow else (BarColumn(),)),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        *(() if narrow else (TextColumn("{task.fields[rate]}"),)),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=console, transient=True) as progress:
        yield progress


def _start(event: Event, view: View) -> str:
    """The data, the model, and what it trains on."""
    v = event.values
    data = v["data"]
    amount = "fresh data at every step"
    if data["train_tokens"]:
        amount = f"{data['train_tokens']:,} training tokens of {data['documents']:,} documents"
    elif data.get("streams"):
        amount = "text that is read as training goes on"
    minutes = described_minutes(event.time)
    instead = f" in place of {escape(printable(view.replaced))}" if view.replaced else ""
    budget = (f" {minutes}" if minutes else "") + instead
    together = f", {v['ranks']} ranks" if "ranks" in v else ""
    return (
        _left_out(data)
        + "".join(f"{line}\n" for line in described_held_out(data))
        + (
            f"{escape(v['name'])}: {v['parameters']:,} parameters, {amount}, {v['steps']:,} steps{budget}\n"
            f"{v['device']}: {v['precision']}, threads {v['machine']['threads']}, micro-batches {v['micro_batches']}"
            f"{', compiled' if v['compile'] else ''}{together}"
        )
    )


def described_minutes(times: dict[str, float]) -> str:
    """The budget in minutes that became steps, and the times of these; nothing where there was none."""
    if "minutes" not in times:
        return ""
    further = ""
    if "further_steps" in times:
        further = f", of which the method adds {times['further_steps']:,} at {_milliseconds(times['further_step_ms'])}"
    unit = "minute" if times["minutes"] == 1 else "minutes"
    pace = f" at {_milliseconds(times['step_ms'])} per step" if "step_ms" in times else ""  # lost with a record
    return f"for {times['minutes']:g} {unit}{pace}{further}"


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"


def _left_out(data: Values) -> str:
    """What was left out of the data, a line per kind."""
    lines = ""
    for kind, count in data.get("left_out", {}).items():
        place = data["for_example"].get(kind)
        lines += f"left out: {count:,} times {kind}" + (f", as in {place}\n" if place else "\n")
    return escape(printable(lines))


def described_held_out(data: Values) -> Iterator[str]:
    """A line where a grammar's test sequences, or their prefixes, are trained on; none where that is negligible.

    And one where a task has so few prompts of a difficulty that a split repeats them.
    """
    shares = data.get("overlap", {})
    if max(shares.values(), default=0) > 0:
        yield (
            f"overlap: {shares['sequences']:.1%} of the test sequences, and {shares['prefixes']:.1%} of their prefixes "
            "of all but the last token, are in the training set"
        )
    few = {  # a task's base difficulties by how many prompts they test
        data["base"][0] + n: count
        for n, count in enumerate(data.get("held_out_prompts", {}).get("test", []))
        if count < data["held_out_examples"] / 2
    }
    if few:
        counts = ", ".join(f"{count} of difficulty {difficulty}" for difficulty, count in few.items())
        yield f"held out: few different prompts, {counts}, come again in {data['held_out_examples']} test examples each"
    expected = data.get("expected_overlap", {})
    if max(expected.values(), default=0) >= 0.001:
        after = ", ".join(f"{share:.1%} of {int(count):,}" for count, share in expected.items())
        yield f"overlap: the share of test sequences expected among fresh training sequences is {after}"


def _note(event: Event, view: View) -> str:
    return f"[yellow]note[/]: {escape(printable(event.values['text']))}"


def _phase(event: Event, view: View) -> str:
    values = event.values
    objective = ", ".join(filter(None, (values["objective"], values["unit"])))
    return f"from step {event.step + 1}: {escape(values['name'])}; its loss is the {escape(objective)}"


def _eval(event: Event, view: View) -> str:
    return f"step {event.step}  {event.values['split']} {described(event.values)}"


def _student(event: Event, view: View) -> str:
    best = "" if event.values["best"] else ", not its best"
    return f"step {event.step}  student: {event.values['split']} {described(event.values)}{best}"


def _sources(event: Event, view: View) -> str | None:
    """The weights of sources, where they adapt."""
    if "weights" not in event.values:
        return None
    weights = zip(event.values["names"], event.values["weights"], strict=True)
    return "weights from here on: " + escape(", ".join(f"{printable(name)} {weight:.2f}" for name, weight in weights))


def _alarm(event: Event, view: View) -> str:
    values = event.values
    then = "it is tried again, with a unanimous vote" if values["retry"] else "no more rounds"
    return f"[yellow]alarm[/]: round {values['round']} is undone, {escape(values['reason'])}; {then}"


def _sample(event: Event, view: View) -> str:
    text = escape(printable(event.values["text"]))
    return f"[dim]step {event.step} writes:[/] {text}" if event.step < view.steps else f"\n[bold]A sample[/]\n{text}\n"


def _end(event: Event, view: View) -> str:
    """The score of the best model, and where the report lies."""
    values = event.values
    held_out = f"{values['scored']:,} tokens held out for {values['split']}"
    return (
        f"{values['split']} {described(values)} on {held_out}, {event.time['seconds']:.0f} s of training\n"
        f"report: {escape(str(view.out / 'report.html'))}"
    )


def _stop(event: Event, view: View) -> str:
    run = escape(shlex.quote(str(view.out)))
    return f"stopped and saved at step {event.step}; go on with: nanogrove train {run} --resume"


def _reward(event: Event, view: View) -> str | None:
    """The reward of samples before the first round; that after a round is in the evaluation that comes next."""
    if event.values["round"]:
        return None
    return f"before the first round  {REWARD.phrase(event.values)}"


def _rewards(event: Event, view: View) -> str:
    """One line of the rewards to learn from, and of what the algorithm makes of them."""
    values = event.values
    line = (
        f"rewards of {values['texts']:,} texts: mean {values['mean']:.4g}, standard deviation {values['deviation']:.4g}"
    )
    if "wanted" in values:
        sides = (f"{values[side]:,} {side} (weight {values[f'{side}_weight']:.3g})" for side in ("wanted", "unwanted"))
        line += f"; above {values['threshold']:.4g} wanted: {', '.join(sides)}"
    if values.get("value_r2") is not None:
        line += f"; V explains {values['value_r2']:.1%} of their variance, held out"
    if "effective_sample_size" in values:
        line += f"; effective sample size {values['effective_sample_size']:,.0f}"
    before = {"mean": values.get("reward_before"), "error": values.get("reward_before_error")}
    return line if before["mean"] is None else f"{line}\nstep {event.step}  {REWARD.phrase(before)}"


def _heads(event: Event, view: View) -> str:
    """One line of what heads have learned, and the parts that teach the model nothing."""
    values, learned = event.values, []
    figures = values["measures"]
    for measure in HEADS:
        if measure.label and measure.name in figures:
            reference = figures.get(measure.reference)
            beside = f" ({_figures(reference)} without learning)" if measure.reference in figures else ""
            learned.append(f"{measure.label} {_figures(figures[measure.name])}{beside}")
    line = f"heads: {', '.join(learned)}" if learned else "heads: nothing to measure them on"
    idle = f"\n[yellow]idle[/]: {', '.join(values['idle'])}, whose gradient is below {values['idle_below']:.1%} of the "
    return line + (idle + "main loss's" if values["idle"] else "")


def _figures(value: float | list[float]) -> str:
    """A number, or several, in three digits."""
    return " ".join(map(_figures, value)) if isinstance(value, list) else f"{value:.3f}"


def _exact(event: Event, view: View) -> str:
    """Exact match of the median voter from the first difficulty that is not mastered, or the last four."""
    values = event.values
    middle = [median(exact) for exact in values["exact"]]
    first = next((n for n, share in enumerate(middle) if share < 0.99), len(middle))
    shown = min(first, len(middle) - 1)
    figures = "  ".join(f"{d}: {m:.3f}" for d, m in zip(values["difficulties"][shown:], middle[shown:], strict=True))
    mastered = f"{values['difficulties'][0]}-{values['difficulties'][first - 1]} at .99 or more; " if first else ""
    return f"exact match by difficulty  {mastered}{figures}"


def _generation(event: Event, view: View) -> str:
    """One line of a generation: its scores, and how many members were replaced."""
    values = event.values
    scores, births = sorted(values["score"]), values.get("births", [])
    line = f"generation {values['generation']}  best {scores[0]:.4f}, median {median(scores):.4f}"
    changed = [f"{len(births)} of {len(scores)} replaced"] if births else []
    for key in ("spared", "diverged"):
        changed += [f"{len(values[key])} {key}"] if values.get(key) else []
    return f"{line}; {', '.join(changed)}" if changed else line


def _round(event: Event, view: View) -> str:
    """One line of a round: what it labelled, how much of it was kept, and how much of that was right."""
    values, labels = event.values, []
    for label in values["labels"]:
        right = "" if label["precision"] is None else f", {label['precision']:.1%} of them right"
        agreed = "" if label["agreement"] is None else f"agreement {label['agreement']:.2f}, "
        trust = "" if label.get("trust") is None else f"trust {label['trust']:.2f}, "
        labels.append(f"difficulty {label['difficulty']}: {agreed}{trust}kept {label['kept']:.0%}{right}")
    line = f"round {values['round']}  {'; '.join(labels) or 'older data alone'}  frontier {values['frontier']}"
    return f"{line}\n[yellow]no more rounds[/]: {escape(values['ended'])}" if values.get("ended") else line


LINES: dict[str, Callable[[Event, View], str | None]] = {
    "start": _start,
    "note": _note,
    "phase": _phase,
    "eval": _eval,
    "reward": _reward,
    "rewards": _rewards,
    "sources": _sources,
    "auxiliary": _heads,
    "exact": _exact,
    "student": _student,
    "alarm": _alarm,
    "generation": _generation,
    "round": _round,
    "sample": _sample,
    "end": _end,
    "stop": _stop,
}


def described_score(values: Values) -> Iterator[str]:
    """Lines of what a best model does on a split: all its figures, and those that are lists over something."""
    yield f"{values['split']} {described(values)}, on {values['tokens']:,} tokens; model of step {values['step']}"
    yield from values.get("unmeasured", ())
    for measure in measured(values):
        if measure.by:
            axis = measure.by.removesuffix("s")
            for at, figure in zip(values[measure.by], values[measure.name], strict=True):
                yield f"{axis} {at:>3}  {measure.label} {number(figure)}"


EVENTS = {
    "answer": "its greedy answer is the true one",
    "share": "no event: mean confidence of its tokens beside the share of them that is predicted right",
}


def described_calibration(calibrated: Values) -> Iterator[str]:
    """Lines of a temperature, what it changes on another split, and the reliability tables before and after."""
    fitted, measured = calibrated["fitted"], calibrated["measured"]
    yield f"temperature {calibrated['temperature']:.4f}, fitted on {fitted['tokens']:,} {fitted['split']} tokens"
    if fitted["chose_checkpoint"]:
        yield f"the {fitted['split']} split chose this checkpoint too; {measured['split']} chose nothing"
    if calibrated["bounded"]:
        yield "that is the end of the range searched: nearly all predictions are right, or none beats a uniform guess"
    for name, each in measured["figures"].items():
        event = f", right when {EVENTS['answer']}" if measured["event"] == "answer" else f"; {EVENTS['share']}"
        yield f"\n{measured[name]:,} {measured['split']} {name}{event if name == 'sequences' else ''}"
        yield f"{'':<18}{'before':>9}{'after':>9}"
        for measure in (measure for measure in CALIBRATION if measure.label):
            figures = [each[when][measure.name] for when in ("before", "after")]
            cells = ["n/a" if figure is None else number(figure) for figure in figures]
            yield f"{measure.label:<18}{cells[0]:>9}{cells[1]:>9}"
        yield f"{'confidence':<18}{'  before: count, confidence, accuracy':<38}  after"
        tables = [each[when]["bins"]["width"] for when in ("before", "after")]
        bins = len(tables[0]["count"])
        for n in range(bins):
            cells = [_bin(*(table[key][n] for key in ("count", "confidence", "accuracy"))) for table in tables]
            if any(cell.strip() for cell in cells):
                yield f"{n / bins:.3f} to {(n + 1) / bins:.3f}    {cells[0]:<38}{cells[1]}".rstrip()


def _bin(count: int, confidence: float | None, accuracy: float | None) -> str:
    return f"{count:>10,}  {confidence:.4f}  {accuracy:.4f}" if count else ""
