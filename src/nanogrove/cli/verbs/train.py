"""`nanogrove train`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogrove.cli.completion import complete_presets_and_runs, complete_settings
from nanogrove.cli.terminal import console, standard_input
from nanogrove.cli.text import printable
from nanogrove.errors import PresetError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nanogrove.config.exclusions import Replaced
    from nanogrove.record.events import Event
    from nanogrove.runs.estimate import Estimate
    from nanogrove.waits import Progress


Extension = Annotated[
    str | None,
    typer.Option(
        metavar="[extend]",
        help="With --resume and a larger budget: keep the past, go on with a stable phase and a decay.",
    ),
]


def train(
    preset: Annotated[
        str,
        typer.Argument(
            help="A preset's name, a JSON file, - for JSON on standard input, or with --resume a run folder.",
            autocompletion=complete_presets_and_runs,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Such as train.steps=500 data.sources=my.txt.",
            autocompletion=complete_settings,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME of the preset when left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue that run, or train it for longer.")] = False,
    schedule: Extension = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run functions the preset names as module:function.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print parameters, tokens, memory, FLOPs and time, then exit.")
    ] = False,
) -> None:
    """Train a preset in a run folder."""
    from nanogrove.cli.waits import shown_waits

    with shown_waits("starting"):
        from rich.console import Console

        from nanogrove.cli.render import show
        from nanogrove.config.exclusions import BUDGET_KEYS
        from nanogrove.config.overrides import replaced, resolve
        from nanogrove.runs import train as runs
        from nanogrove.runs.estimate import estimate
        from nanogrove.train.parallel.ranks import Ranks
        from nanogrove.waits import waiting

        _check_extension(schedule, resume)
        values, folder = _read_preset(preset, resume)
        chosen, instead = resolve(values, overrides or []), replaced(values, overrides or [])
    budgets = [each for each in instead if each.key in BUDGET_KEYS]
    budget = " and ".join(f"{key}={json.dumps(value)}" for key, value, _ in budgets) or None
    shown = console() if Ranks.from_environment().first else Console(quiet=True)
    for each in instead:
        if each not in budgets:
            shown.print(_described_replaced(each), highlight=False, soft_wrap=True)
    if dry_run:
        with shown_waits("reading the data"):
            figures = estimate(chosen, allow_code)
        _print_estimate(figures, budget)
        return
    out = out or folder or Path("runs") / chosen.name
    with waiting("setting up") as progress:
        events = _ends(progress, runs.train(chosen, out, resume, allow_code, extend=schedule is not None))
        stopped = show(events, shown, out, budget)
    if stopped is not None:
        raise typer.Exit(128 + stopped)


def _check_extension(schedule: str | None, resume: bool) -> None:
    if schedule not in (None, "extend"):
        raise PresetError(
            f"--schedule {schedule}: takes extend alone; the schedule of a new run is a setting, such as "
            "schedule.name=cosine, and a run that goes on keeps its own"
        )
    if schedule and not resume:
        raise PresetError("--schedule extend goes on with a run; add --resume and a larger budget, or leave it out")


def _ends(progress: "Progress", events: "Iterable[Event]") -> "Iterator[Event]":
    """The events, of which the first that is not a note ends the wait before them."""
    for event in events:
        progress.over = progress.over or event.kind != "note"
        yield event


def _read_preset(preset: str, resume: bool) -> tuple[dict[str, Any], Path | None]:
    """The JSON of a preset, and the folder of the run that it is read from, if any."""
    from nanogrove.config.catalog import parse_preset, read_preset_file
    from nanogrove.record.folder import read_preset

    if preset == "-":
        return parse_preset(standard_input(), "standard input"), None
    if not (resume and Path(preset).is_dir()):
        return read_preset_file(preset), None
    values = read_preset(Path(preset))
    if values is None:
        raise RunError(f"{preset}: no run here; start one with `nanogrove train PRESET --out {preset}`")
    return values, Path(preset)


def _print_estimate(figures: "Estimate", replaced: str | None) -> None:
    from nanogrove.cli.render import described_minutes

    members = f", {figures['members']} members" if figures["members"] != 1 else ""
    print(f"parameters  {figures['parameters']:,}{members}")
    passes = f", {figures['epochs']:.2f} epochs" if figures["epochs"] else ""
    print(f"tokens      {figures['tokens']:,} in {figures['steps']:,} steps{passes}")
    instead = f"in place of {printable(replaced)}" if replaced else ""
    if budget := " ".join(filter(None, (described_minutes(figures["budget"]), instead))):
        print(f"budget      {figures['steps']:,} steps {budget}")
    print(f"memory      about {figures['memory_bytes'] / 1e6:,.0f} MB of weights, moments and activations")
    print(f"FLOPs       {figures['flops']:.3g}, in {figures['precision']} on {figures['device']}")
    print(f"time        {_described_pace(figures['seconds'])}")


def _described_pace(seconds: float | None) -> str:
    """How long training takes, and how that is known."""
    if seconds is None:
        return "not measured: a step takes more memory than there is"
    minutes = seconds / 60
    about = "less than a minute" if minutes < 1 else f"about {minutes:,.0f} minutes"
    if minutes >= 90:
        about = f"about {minutes / 60:,.1f} hours"
    return f"{about} of training, by timing a few steps just now; evaluation and samples come on top"


def _described_replaced(replaced: "Replaced") -> str:
    """A setting of the preset that does not apply, and why, as a note."""
    from rich.markup import escape

    key, value, by = replaced
    return (
        f"[yellow]note[/]: {escape(printable(f'{key}={json.dumps(value)} of the preset does not apply beside {by}'))}"
    )
