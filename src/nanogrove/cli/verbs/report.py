"""`nanogrove report`."""

from typing import Annotated

import typer

from nanogrove.cli.terminal import RunFolder
from nanogrove.errors import PresetError

WithModel = Annotated[
    bool, typer.Option("--with-model", help="Write report-with-model.html, in which the model writes text offline.")
]
Weights = Annotated[str | None, typer.Option(help="Of that page: float32, float16 or int8; float32 when left out.")]
Yes = Annotated[bool, typer.Option("--yes", help="Write that page also where it has more than 20 MB.")]


def report(run: RunFolder, with_model: WithModel = False, weights: Weights = None, yes: Yes = False) -> None:
    """Write a run's report.html anew, or a report in which its model writes text."""
    if not with_model and (weights is not None or yes):
        option = "--yes" if weights is None else "--weights"
        raise PresetError(f"{option} goes with --with-model; add that, or leave it out")
    from nanogrove.cli.waits import shown_waits

    with shown_waits("drawing the report"):
        if with_model:
            from nanogrove.exports.model_report import write_model_report

            path = write_model_report(run, weights or "float32", yes, _announce)
        else:
            from nanogrove.reports.report import write_report

            path = write_report(run)
    print(path)


def _announce(line: str) -> None:
    print(line, flush=True)
