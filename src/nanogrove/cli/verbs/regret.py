"""`nanogrove regret`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nanogrove.cli.terminal import console


def regret(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in seeds=4 or methods=rwr,dpo.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder.")] = Path("studies/regret"),
    workers: Annotated[int, typer.Option(help="Runs at a time; 0 for one per core.", min=0)] = 0,
) -> None:
    """Draw methods of reinforcement learning as regret against an optimum that is known exactly."""
    from nanogrove.cli.waits import shown_waits

    with shown_waits("starting"):
        from rich.markup import escape

        from nanogrove.cli.studies import show
        from nanogrove.cli.text import printable
        from nanogrove.studies.regret.findings import lines
        from nanogrove.studies.regret.settings import read_settings
        from nanogrove.studies.regret.study import draw

        asked = read_settings(settings or [])
    try:
        findings = show(draw(asked, out, workers), console())
    except (KeyboardInterrupt, SystemExit) as stop:
        print("stopped; what runs have saved stays, and the same command goes on", file=sys.stderr)
        raise typer.Exit(int(stop.code or 0) if isinstance(stop, SystemExit) else 130) from None
    for line in (*lines(findings), f"report: {out / 'report.html'}"):
        console().print(escape(printable(line)), highlight=False, soft_wrap=True)
