"""`nanogrove evaluate`."""

from typing import Annotated

import typer

from nanogrove.cli.terminal import RunFolder
from nanogrove.errors import PresetError


def evaluate(
    run: RunFolder,
    split: Annotated[
        str | None, typer.Option(help="validation, test or train; when left out validation, or test for a grammar.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on validation, keep it, and measure it on test.")
    ] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the reward that the preset names as module:function.")
    ] = False,
) -> None:
    """Score a run's best model on the whole of a split."""
    if split not in (None, "validation", "test", "train"):
        raise PresetError(f"--split {split}: no such split; it is validation, test or train")
    from nanogrove.cli.waits import shown_waits

    with shown_waits("starting"):
        from nanogrove.cli.render import described_calibration, described_held_out, described_score
        from nanogrove.runs import score as runs

        score = runs.evaluate(run, split, calibrate=calibrate, allow_code=allow_code)
    for line in (*described_score(score), *described_held_out(score)):
        print(line)
    for line in described_calibration(score["calibration"]) if calibrate else ():
        print(line)
