"""What a format of exports is: `Format`, which each file of `formats.FORMATS` has as `FORMAT`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanogrove.exports.source import Source

Dtype = Literal["f32", "f16", "q8_0"]
DTYPES: dict[str, str] = {
    "f32": "numbers of 32 bits",
    "f16": "numbers of 16 bits",
    "q8_0": "numbers of 8 bits, of which 32 share a scale of 16 bits",
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of exports.

    Args:
        title: What people call it.
        library: The library that reads it, as the hub names it.
        dtypes: What weights can be stored as; the first is the default.
        packages: What has to be importable to write it, beyond what nanogrove needs itself.
        write: Writes a model into an empty folder. Raises PresetError for a model that the format cannot hold.
        usage: How the folder `out` is used, in Markdown.
    """

    title: str
    library: str
    dtypes: tuple[Dtype, ...]
    write: Callable[[Source, Dtype, Path], None]
    usage: Callable[[Source, Dtype], str]
    packages: tuple[str, ...] = ()
