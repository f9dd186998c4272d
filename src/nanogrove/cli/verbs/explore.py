"""`nanogrove explore`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from nanogrove.cli.terminal import new_run_folder, text_width
from nanogrove.cli.verbs.train import train
from nanogrove.errors import DataError, RunError


def explore(
    path: Annotated[str, typer.Argument(help="A file, a folder, or a pattern such as 'logs/*.txt'.")],
    out: Annotated[Path | None, typer.Option(help="The preset to write; NAME.json of the path when left out.")] = None,
    train_it: Annotated[bool, typer.Option("--train", help="Train the preset at once, below runs/.")] = False,
) -> None:
    """Look at text, CSV, JSON lines, Parquet or PDF, and write a preset that trains on it."""
    if out is not None and out.exists():
        raise RunError(f"{out}: is there already; name another file")
    from nanogrove.cli.waits import shown_waits

    with shown_waits(f"looking at {path}"):
        from nanogrove.cli.exploration import described, proposed
        from nanogrove.explore.findings import explore as look
        from nanogrove.explore.proposal import propose, seconds, write_preset

        findings = look(path)
    width = text_width()
    for line in described(findings, width):
        print(line)
    proposal = propose(findings)
    if proposal is None:
        raise DataError(
            f"{path}: too little to train on, with {findings.chosen_tokens.count:,} tokens; nothing is written"
        )
    sys.stdout.flush()  # what follows takes seconds
    with shown_waits("timing a step"):
        took = seconds(proposal, findings.chosen_tokens.vocabulary)
    written = write_preset(proposal, path, out)
    for line in proposed(proposal, took, str(written), width):
        print(line)
    if train_it:
        train(str(written), [], new_run_folder(str(written)))
    else:
        print(f"train it with `nanogrove train {shlex.quote(str(written))}`")
