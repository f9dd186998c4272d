"""The weights of a folder that `transformers` wrote: one file of safetensors, or several shards and their index.

The folder may be a stranger's: nothing but safetensors and JSON is read, no link is followed, and an index names files
of its own folder only. A shard holds exactly the tensors that the index says.
"""

import os.path
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanogrove.errors import CheckpointError
from nanogrove.json_reading import BadJsonError, read_json
from nanogrove.settings import shown
from nanogrove.waits import Progress, waiting

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"
_NAME_OF_SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by their names, in the formats in which they are stored.

    Raises CheckpointError, with the file and the reason, where a file is missing, damaged, a link or a pickle, and
    where an index and its shards do not agree.
    """
    if not os.path.lexists(folder / SINGLE):
        if os.path.lexists(folder / INDEX) or any(folder.glob(SHARDS)):
            return _read_shards(folder, _read_index(folder / INDEX))
        if any(folder.glob("*.bin")):
            raise CheckpointError(f"{folder}: weights are safetensors only; opening a pickle may run code")
    (tensors,) = _read_files([plain_file(folder / SINGLE)])
    return tensors


def plain_file(path: Path, remedy: str = "export and save_pretrained write it") -> Path:
    """The path, if a file lies there. Raises CheckpointError for a link, and where there is none, with the `remedy`."""
    if path.is_symlink():
        raise CheckpointError(f"{path} is a symbolic link; put the file itself there (hf download --local-dir)")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {remedy}")
    return path


def _read_file(path: Path, wait: Progress) -> dict[str, Tensor]:
    tensors = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                tensors[name] = file.get_tensor(name)
                wait.done += tensors[name].nbytes
        return tensors
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _read_index(path: Path) -> dict[str, set[str]]:
    """The names of the tensors of each shard, by the name of its file."""
    try:
        content = read_json(plain_file(path))
    except (OSError, BadJsonError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{path}: has no weight_map, which names the file of each tensor; save the model anew")
    shards = defaultdict[str, set[str]](set)
    for tensor, file in files.items():
        if not isinstance(file, str) or not _NAME_OF_SHARD.fullmatch(file):
            where = f"{path}: weight_map places {shown(tensor)} in {shown(file)}"
            raise CheckpointError(f"{where}, which is not the name of a file of safetensors in this folder")
        shards[file].add(tensor)
    return dict(shards)


def _read_shards(folder: Path, shards: dict[str, set[str]]) -> dict[str, Tensor]:
    """The tensors of all shards, none of which is read where one is missing."""
    paths = [plain_file(folder / file, f"{INDEX} lists it, so copy it there too") for file in sorted(shards)]
    tensors: dict[str, Tensor] = {}
    for path, shard in zip(paths, _read_files(paths), strict=True):
        listed = shards[path.name]
        for problem, names in (("lacks", listed - shard.keys()), ("has", shard.keys() - listed)):
            if names:
                raise CheckpointError(f"{path} {problem} {shown(min(names))}, unlike {INDEX}; copy the folder anew")
        tensors |= shard
    return tensors


def _read_files(paths: Sequence[Path]) -> Iterator[dict[str, Tensor]]:
    """The tensors of each file."""
    with waiting("reading weights", sum(path.stat().st_size for path in paths)) as wait:
        for path in paths:
            yield _read_file(path, wait)
