"""`nanogrove export`."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from nanogrove.cli.completion import complete_runs
from nanogrove.exports.formats import FORMATS

Model = Annotated[
    Path, typer.Argument(help="A run folder, a checkpoint, or a folder for transformers.", autocompletion=complete_runs)
]
To = Annotated[str, typer.Option(help=f"The format: {', '.join(FORMATS)}.")]
Out = Annotated[Path | None, typer.Option(help="A new folder; exports/NAME-FORMAT-DTYPE when left out.")]
NumberFormat = Annotated[str | None, typer.Option(help="What weights are stored as: f32, f16, or for gguf q8_0.")]
License = Annotated[str, typer.Option("--license", help="The licence that the model card names, such as mit.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")]


def export(
    run: Model,
    to: To,
    dtype: NumberFormat = None,
    out: Out = None,
    license_name: License = "unknown",
    overwrite: Overwrite = False,
) -> None:
    """Write a model as files for transformers, llama.cpp (gguf) or onnxruntime and transformers.js (onnx)."""
    from nanogrove.cli.text import printable
    from nanogrove.cli.waits import shown_waits

    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with shown_waits("starting"):
            from nanogrove.exports.write import export as write

            folder = write(run, to, out, dtype, license_name, overwrite)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"exported: {printable(str(folder))}")


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends the process as the signal would, and first what is half written is removed."""
    sys.exit(128 + number)
