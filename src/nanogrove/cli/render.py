"""How a run looks while it runs: a live line on a terminal, plain lines elsewhere."""

import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nanogrove.cli.text import printable
from nanogrove.record.events import Event

PLAIN_SECONDS = 10.0  # between two plain lines of progress


def show(events: Iterable[Event], console: Console, out: Path, replaced: str | None = None) -> int | None:
    """Shows a run's events as they come; returns the number of the signal that stopped it, None for a full run.

    `replaced` is the preset's budget where the command line gave another.
    """
    with _progress(console) as progress:
        task = progress.add_task("", total=None, loss="", rate="") if progress else None
        shown, steps, signal_number = 0.0, 0, None

        def say(text: str) -> None:
            (progress.console if progress else console).print(text, highlight=False, soft_wrap=True)

        for event in events:
            values, spent = event.values, event.time
            if event.kind == "start":
                steps = values["steps"]
                say(_described(event, replaced))
            elif event.kind == "note":
                say(f"[yellow]note[/]: {escape(printable(values['text']))}")
            elif event.kind == "step":
                loss, rate = _number(values["loss"]), f"{spent['tokens_per_second']:,.0f} tokens/s"
                if progress and task is not None:
                    total = steps or None
                    progress.update(task, completed=event.step, total=total, loss=f"loss {loss}", rate=rate)
                elif time.monotonic() - shown > PLAIN_SECONDS:
                    shown = time.monotonic()
                    of = f" of {steps}" if steps else ""
                    say(f"step {event.step}{of}  loss {loss}  {rate}")
            elif event.kind == "eval":
                say(f"step {event.step}  {_score(event)}")
            elif event.kind == "rewards":
                say(_rewards(values))
            elif event.kind == "sources" and "weights" in values:
                shares = zip(values["names"], values["weights"], strict=True)
                say("weights from here on: " + escape(", ".join(f"{printable(n)} {w:.2f}" for n, w in shares)))
            elif event.kind == "auxiliary":
                say(_heads(values))
            elif event.kind == "exact":
                say(_exact(values))
            elif event.kind == "alarm":
                then = "it is tried again, with a unanimous vote" if values["retry"] else "no more rounds"
                say(f"[yellow]alarm[/]: round {values['round']} is undone, {escape(values['reason'])}; {then}")
            elif event.kind == "generation":
                say(_generation(values))
            elif event.kind == "round":
                say(_round(values))
            elif event.kind == "sample" and event.step < steps:
                say(f"[dim]step {event.step} writes:[/] {escape(printable(values['text']))}")
            elif event.kind == "sample":
                say(f"\n[bold]A sample[/]\n{escape(printable(values['text']))}\n")
            elif event.kind == "end":
                say(
                    f"{_score(event)} on {values['scored']:,} tokens held out for {values['split']}, "
                    f"{spent['seconds']:.0f} s of training"
                )
                say(f"report: {escape(str(out / 'report.html'))}")
            elif event.kind == "stop":
                signal_number = values["signal"]
                run = escape(shlex.quote(str(out)))
                say(f"stopped and saved at step {event.step}; go on with: nanogrove train {run} --resume")
        return signal_number


@contextmanager
def _progress(console: Console) -> Iterator[Progress | None]:
    if not console.is_terminal:
        yield None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


def _described(event: Event, replaced: str | None) -> str:
    v = event.values
    data = v["data"]
    amount = "fresh data at every step"
    if data["train_tokens"]:
        amount = f"{data['train_tokens']:,} training tokens of {data['documents']:,} documents"
    elif data.get("streams"):
        amount = "text that is read as training goes on"
    minutes = described_minutes(event.time)
    budget = (f" {minutes}" if minutes else "") + (f" in place of {escape(printable(replaced))}" if replaced else "")
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
    return f"for {times['minutes']:g} {unit} at {_milliseconds(times['step_ms'])} per step{further}"


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"


def _left_out(told: dict[str, Any]) -> str:
    """What of the data was left out, a line a kind."""
    lines = ""
    for kind, count in told.get("left_out", {}).items():
        place = told["for_example"].get(kind)
        lines += f"left out: {count:,} times {kind}" + (f", as in {place}\n" if place else "\n")
    return escape(printable(lines))


def described_held_out(data: dict[str, Any]) -> Iterator[str]:
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


def _score(event: Event) -> str:
    return f"{event.values['split']} {described_score(event.values)}"


def _rewards(values: dict[str, Any]) -> str:
    """One line of the rewards to learn from, and of what the algorithm makes of them."""
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
    return line


def _heads(values: dict[str, Any]) -> str:
    """One line of what heads have learned, and the parts that teach the model nothing."""
    found, said = values["measures"], []
    for name, label, against in (
        ("value_r2", "value R²", ""),
        ("latent_cosine", "latent cosine", "latent_copying"),
        ("span_accuracy", "spans", "span_chance"),
        ("multi_token_accuracy", "tokens ahead right", ""),
        ("policy_kl", "policy KL", "policy_kl_of_model"),
    ):
        if name in found:
            beside = f" ({_figures(found[against])} without learning)" if against in found else ""
            said.append(f"{label} {_figures(found[name])}{beside}")
    line = f"heads: {', '.join(said)}" if said else "heads: nothing to measure them on"
    idle = f"\n[yellow]idle[/]: {', '.join(values['idle'])}, whose gradient is below {values['idle_below']:.1%} of the "
    return line + (idle + "main loss's" if values["idle"] else "")


def _figures(value: Any) -> str:
    """A number, or several, in three digits."""
    if isinstance(value, list):
        return " ".join(map(_figures, value))
    return f"{value:.3f}"


def _exact(values: dict[str, Any]) -> str:
    """Exact match of the median voter from the first difficulty that is not mastered, or the last four."""
    middle = [median(exact) for exact in values["exact"]]
    first = next((n for n, share in enumerate(middle) if share < 0.99), len(middle))
    shown = min(first, len(middle) - 1)
    figures = "  ".join(f"{d}: {m:.3f}" for d, m in zip(values["difficulties"][shown:], middle[shown:], strict=True))
    mastered = f"{values['difficulties'][0]}-{values['difficulties'][first - 1]} at .99 or more; " if first else ""
    return f"exact match by difficulty  {mastered}{figures}"


def _generation(values: dict[str, Any]) -> str:
    """One line of a generation: its scores, and how many places changed owners."""
    scores, births = sorted(values["score"]), values.get("births", [])
    said = f"generation {values['generation']}  best {scores[0]:.4f}, median {median(scores):.4f}"
    changed = [f"{len(births)} of {len(scores)} replaced"] if births else []
    for key in ("spared", "diverged"):
        changed += [f"{len(values[key])} {key}"] if values.get(key) else []
    return f"{said}; {', '.join(changed)}" if changed else said


def _round(values: dict[str, Any]) -> str:
    """One line of a round: what it labelled, how much of it was kept, and how much of that was right."""
    labels = []
    for label in values["labels"]:
        right = "" if label["precision"] is None else f", {label['precision']:.1%} of them right"
        agreed = "" if label["agreement"] is None else f"agreement {label['agreement']:.2f}, "
        labels.append(f"difficulty {label['difficulty']}: {agreed}kept {label['kept']:.0%}{right}")
    said = f"round {values['round']}  {'; '.join(labels) or 'older data alone'}  frontier {values['frontier']}"
    return f"{said}\n[yellow]no more rounds[/]: {escape(values['ended'])}" if values.get("ended") else said


def described_score(values: dict[str, Any]) -> str:
    """The loss, and beside it bits per byte of a text, the best loss where it is known, or a reward's correlation."""
    if "correlation" in values:
        found = "none" if values["correlation"] is None else _number(values["correlation"])
        return f"loss {_number(values['loss'])}, correlation {found} with the true reward"
    loss = f"loss {_number(values['loss'])} nats a token"
    if "chosen_log_prob" in values:
        chosen, rejected = values["chosen_log_prob"], values["rejected_log_prob"]
        return f"{loss}, log-probability of chosen texts {chosen:.2f} and of rejected ones {rejected:.2f} nats per text"
    if "bits_per_byte" in values:
        return f"{loss}, {_number(values['bits_per_byte'])} bits per byte"
    if "bayes_loss" not in values:
        return loss
    excess = f"excess {_number(values['excess'])} ± {_number(values['excess_error'])}"
    accuracy = f"accuracy {_number(values['accuracy'])}, best {values['bayes_accuracy']:.4f}"
    return f"{loss}, best {values['bayes_loss']:.4f}, {excess}; {accuracy}"


EVENTS = {
    "answer": "its greedy answer is the true one",
    "share": "no event: mean confidence of its tokens beside the share of them that is predicted right",
}


def described_calibration(found: dict[str, Any]) -> Iterator[str]:
    """Lines that tell a temperature, what it brings on another split, and the reliability tables before and after."""
    fitted, measured = found["fitted"], found["measured"]
    yield f"temperature {found['temperature']:.4f}, fitted on {fitted['tokens']:,} {fitted['split']} tokens"
    if fitted["chose_checkpoint"]:
        yield f"the {fitted['split']} split chose this checkpoint too; {measured['split']} chose nothing"
    if found["bounded"]:
        yield "that is the end of the range searched: nearly all predictions are right, or none beats a uniform guess"
    for name, each in measured["figures"].items():
        event = f", right when {EVENTS['answer']}" if measured["event"] == "answer" else f"; {EVENTS['share']}"
        yield f"\n{measured[name]:,} {measured['split']} {name}{event if name == 'sequences' else ''}"
        yield f"{'':<18}{'before':>9}{'after':>9}"
        for label, key in CALIBRATION_FIGURES.items():
            cells = ["n/a" if each[when][key] is None else f"{each[when][key]:.4f}" for when in ("before", "after")]
            yield f"{label:<18}{cells[0]:>9}{cells[1]:>9}"
        yield f"{'confidence':<18}{'  before: count, confidence, accuracy':<38}  after"
        tables = [each[when]["bins"]["width"] for when in ("before", "after")]
        bins = len(tables[0]["count"])
        for n in range(bins):
            cells = [_bin(*(table[key][n] for key in ("count", "confidence", "accuracy"))) for table in tables]
            if any(cell.strip() for cell in cells):
                yield f"{n / bins:.3f} to {(n + 1) / bins:.3f}    {cells[0]:<38}{cells[1]}".rstrip()


CALIBRATION_FIGURES = {
    "NLL, nats": "nll",
    "ECE, equal width": "ece_width",
    "ECE, equal mass": "ece_mass",
    "ECE, debiased": "ece_debiased",
    "  95 %: from": "ece_debiased_low",
    "  95 %: to": "ece_debiased_high",
    "Brier score": "brier",
    "accuracy": "accuracy",
}


def _bin(count: int, confidence: float | None, accuracy: float | None) -> str:
    return f"{count:>10,}  {confidence:.4f}  {accuracy:.4f}" if count else ""


def _number(value: float | list[float]) -> str:
    """A figure; of a population of more than four its least, median and greatest."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if len(value) <= 4:
        return " ".join(f"{v:.3f}" for v in value)
    return f"{min(value):.3f} to {max(value):.3f}, median {median(value):.3f}"
