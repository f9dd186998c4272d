"""`nanogrove lineage`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nanogrove.cli.terminal import RunFolder
from nanogrove.errors import RunError


def lineage(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Write the schedule as a preset for one model.")] = None,
) -> None:
    """Show the winner of an evolution, its ancestors, and the schedule it had."""
    from nanogrove.atomic import write_file
    from nanogrove.cli.text import printable
    from nanogrove.config.overrides import resolve
    from nanogrove.record.lineage import genealogy, replay, winning_line
    from nanogrove.record.reading import read_run

    read = read_run(run)
    preset = resolve(read.preset).model_dump(mode="json")
    if preset["method"]["name"] != "evolve":
        raise RunError(f"{run}: is not an evolution, so there is no line of descent; `nanogrove report` describes it")
    line = winning_line(genealogy(read.of("generation")))
    schedule = replay(preset, line)
    for life in line:
        score = "none" if life.score is None else f"{life.score:.4f}"
        values = "  ".join(f"{name} {value:.4g}" for name, value in life.values.items())
        print(printable(f"generation {life.generation:>3}  member {life.member:>4}  score {score}  {values}"))
    if out is not None:
        if out.exists():
            raise RunError(f"{out}: is there already; name another file")
        write_file(out, (json.dumps(schedule, indent=1) + "\n").encode())
        print(f"{out}: train it with `nanogrove train {out}`")
