"""`nanogrove train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nanogrove.cli.terminal import console
from nanogrove.errors import RunError

if TYPE_CHECKING:
    from nanogrove.runs.estimate import Estimate


def train(
    preset: Annotated[str, typer.Argument(help="A preset's name, a JSON file, or with --resume a run folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as train.steps=500 data.sources=my.txt.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME of the preset when left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run functions the preset names as module:function.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print parameters, tokens, memory and FLOPs, then exit.")
    ] = False,
) -> None:
    """Train a preset in a run folder."""
    from nanogrove.cli.render import show
    from nanogrove.cli.waits import WaitLines
    from nanogrove.config.catalog import read_preset_file
    from nanogrove.config.overrides import replaced_budget, resolve
    from nanogrove.record.folder import read_preset
    from nanogrove.runs import train as runs
    from nanogrove.runs.estimate import estimate
    from nanogrove.train.parallel.ranks import Ranks

    values = None
    if resume and Path(preset).is_dir():
        values, out = read_preset(Path(preset)), out or Path(preset)
        if values is None:
            raise RunError(f"{preset}: no run here; start one with `nanogrove train PRESET --out {preset}`")
    values = read_preset_file(preset) if values is None else values
    chosen = resolve(values, overrides or [])
    replaced = replaced_budget(values, chosen)
    if dry_run:
        _print_estimate(estimate(chosen, allow_code, WaitLines(console)), replaced)
        return
    out = out or Path("runs") / chosen.name
    shown = console if Ranks.from_environment().first else Console(quiet=True)
    stopped = show(runs.train(chosen, out, resume, allow_code, WaitLines(shown)), shown, out, replaced)
    if stopped is not None:
        raise typer.Exit(128 + stopped)


def _print_estimate(figures: "Estimate", replaced: str | None) -> None:
    from nanogrove.cli.render import described_minutes
    from nanogrove.cli.text import printable

    members = f", {figures['members']} members" if figures["members"] != 1 else ""
    print(f"parameters  {figures['parameters']:,}{members}")
    passes = f", {figures['epochs']:.2f} epochs" if figures["epochs"] else ""
    print(f"tokens      {figures['tokens']:,} in {figures['steps']:,} steps{passes}")
    instead = f"in place of {printable(replaced)}" if replaced else ""
    if budget := " ".join(filter(None, (described_minutes(figures["budget"]), instead))):
        print(f"budget      {figures['steps']:,} steps {budget}")
    print(f"memory      about {figures['memory_bytes'] / 1e6:,.0f} MB of weights, moments and activations")
    print(f"FLOPs       {figures['flops']:.3g}, in {figures['precision']} on {figures['device']}")
