"""The table of formats: a new one is a file beside this one, which exports `FORMAT`, and a line in `FORMATS`."""

from importlib import import_module
from typing import TYPE_CHECKING

from nanogrove.errors import PresetError, nearest

if TYPE_CHECKING:  # it imports torch, which --help does without
    from nanogrove.exports.contract import Format

FORMATS = {
    "transformers": "nanogrove.exports.transformers",
    "gguf": "nanogrove.exports.gguf",
    "onnx": "nanogrove.exports.onnx",
}


def load_format(name: str) -> "Format":
    """The format of this name. Raises PresetError where there is none."""
    if name not in FORMATS:
        hint = nearest(name, FORMATS) or f"formats are {', '.join(FORMATS)}"
        raise PresetError(f"--to {name}: no such format; {hint}")
    chosen: Format = import_module(FORMATS[name]).FORMAT
    return chosen
