"""Exports a model: reads it, and writes a folder for another program, whole or not at all."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from nanogrove.atomic import new_folder, not_plain, refusal, write_file
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.exports.card import UNKNOWN_LICENSE, model_card
from nanogrove.exports.contract import Dtype, Format
from nanogrove.exports.formats import load_format
from nanogrove.exports.source import read_source
from nanogrove.waits import waiting

CARD = "README.md"
LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,59}")


def export(
    path: Path,
    to: str,
    out: Path | None = None,
    dtype: str | None = None,
    license_name: str = UNKNOWN_LICENSE,
    overwrite: bool = False,
) -> Path:
    """Exports the model of a run, of a checkpoint, or of a folder for transformers; returns the folder that it wrote.

    Raises PresetError for a format or a `dtype` that there is not, for a model that the format cannot hold, and where
    what it needs is not installed; CheckpointError for a model that cannot be read, for an `out` that holds something,
    and when the disk refuses.

    Args:
        path: the folder of the model.
        to: a format of `FORMATS`.
        out: the folder that is written; `exports/NAME-FORMAT-DTYPE` when left out.
        dtype: what weights are stored as; f32 when left out.
        license_name: what the model card says, such as `mit`.
        overwrite: whether an earlier export in `out` is replaced.
    """
    chosen = load_format(to)
    kind = _checked_dtype(chosen, to, dtype)
    if not LICENSE.fullmatch(license_name):
        raise PresetError(f"--license {license_name}: not the name of a licence; write one such as mit or cc-by-4.0")
    missing = [name for name in chosen.packages if find_spec(name) is None]
    if missing:
        raise PresetError(f"--to {to}: needs {' and '.join(missing)}; pip install 'nanogrove[export]'")
    with waiting("reading the model"):
        source = read_source(path)
    folder = Path(os.path.abspath(out or Path("exports") / f"{source.name}-{to}-{kind}"))
    shown = out or folder.relative_to(os.path.abspath("."))
    _check_folder(folder, shown, overwrite)
    try:
        with waiting(f"exporting {source.name}"), new_folder(folder) as aside:
            chosen.write(source, kind, aside)
            write_file(aside / CARD, model_card(source, chosen, kind, license_name).encode())
            _check_kept(folder, shown, aside)
    except OSError as error:
        raise CheckpointError(
            f"{shown}: cannot be written {refusal(error)} or name another folder with --out"
        ) from None
    return shown


def _checked_dtype(chosen: Format, to: str, dtype: str | None) -> Dtype:
    """A dtype of the format. Raises PresetError for another one."""
    if dtype is None:
        return chosen.dtypes[0]
    for known in chosen.dtypes:
        if known == dtype:
            return known
    raise PresetError(f"--dtype {dtype}: {chosen.title} stores no such numbers; formats are {', '.join(chosen.dtypes)}")


def _check_folder(folder: Path, shown: Path, overwrite: bool) -> None:
    """Raises CheckpointError where something is in the way of a new folder."""
    if reason := not_plain(folder, folder=True):
        raise CheckpointError(f"{shown}: {reason}; name another folder with --out")
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{shown}: is not empty; name another folder with --out, or add --overwrite")


def _check_kept(folder: Path, shown: Path, new: Path) -> None:
    """Raises CheckpointError where the old folder has a file that the new one has not, which would be lost."""
    for entry in folder.rglob("*"):  # not sorted, which would read all of a large folder before the first is refused
        name = entry.relative_to(folder)
        if entry.is_symlink() or entry.is_dir() != (new / name).is_dir() or not (new / name).exists():
            raise CheckpointError(
                f"{shown / name}: is not of such an export, and would be lost; move it away, or name another --out"
            )
