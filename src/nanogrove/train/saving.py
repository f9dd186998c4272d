"""A checkpoint is written, whole or not at all; see `checkpoint.py` for what it holds."""

import hashlib
import json
import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch

from nanogrove.atomic import flush_folder, refusal, remove, write_folder
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import CheckpointError
from nanogrove.model.members import unstack
from nanogrove.train.adapter_files import adapter_files
from nanogrove.train.checkpoint import AVERAGE, FORMAT, LORA, ROTATION, TEMPLATE, checksum_of
from nanogrove.train.state import TrainState, optimizer_tensors
from nanogrove.waits import waiting


def save_checkpoint(
    root: Path, name: str, state: TrainState, tokenizer: Tokenizer, extra: dict[str, Any], member: int | None = None
) -> None:
    """Writes a checkpoint as the folder `root/name`.

    `current` holds all that a resumed run needs, and saving it rotates the older ones; any other name holds weights
    alone. Raises CheckpointError when the disk refuses; what was saved before stays complete.

    Args:
        root: the folder of all checkpoints of a run
        name: `current`, or another name, such as `best`
        state: what is saved
        tokenizer: its vocabulary
        extra: more entries of `state.json`
        member: the member of a population whose weights alone are saved; all of the state where None
    """
    model, beside, adapter = state.modules if name == "current" else state.scored_modules
    weights, heads = model.state_dict(), {} if beside is None else beside.state_dict()
    if member is not None:
        weights, heads = unstack(weights, member), unstack(heads, member)
    files = {
        "model.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in weights.items()}),
        "config.json": state.model.config.model_dump_json(indent=1).encode(),
        "tokenizer.json": tokenizer.to_json().encode(),
    }
    if tokenizer.chat_template is not None:
        files[TEMPLATE] = tokenizer.chat_template.encode()
    if heads:
        files["heads.safetensors"] = safetensors.torch.save({k: v.contiguous() for k, v in heads.items()})
    if name == "current":
        tensors = {key: value.contiguous() for key, value in optimizer_tensors(state).items()}
        files["optimizer.safetensors"] = safetensors.torch.save(tensors)
        if state.average is not None:
            averages = {key: value.detach().contiguous() for key, value in state.average.tensors().items()}
            files[AVERAGE] = safetensors.torch.save(averages)
        if adapter is not None:
            files[LORA] = safetensors.torch.save({k: v.contiguous() for k, v in adapter.tensors().items()})
        if state.method_tensors:
            method_tensors = {key: value.contiguous() for key, value in state.method_tensors.items()}
            files["kept.safetensors"] = safetensors.torch.save(method_tensors)
    elif adapter is not None:
        files |= adapter_files(adapter, model, member)
    record: dict[str, Any] = {
        "format": FORMAT,
        "step": state.step,
        "tokens": state.tokens,
        "round": state.round,
        "seconds": state.seconds,
        "notes": state.method_state,
        **({} if state.heads is None else {"auxiliary": state.heads.config.model_dump()}),
        **({} if state.adapter is None else {"trained_whole": list(state.adapter.whole)}),
        **({"ensemble": state.ensemble} if state.ensemble else {}),
        **state.averaged,
        **extra,
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
    }
    record["checksum"] = checksum_of(record)
    aside = root / f".{name}.part"
    try:
        with waiting("saving a checkpoint"):
            write_folder(aside, {**files, "state.json": json.dumps(record, indent=1).encode()})
        _place(root, name, aside)
    except OSError as error:
        with suppress(OSError):
            remove(aside)
        raise CheckpointError(
            f"{root / name}: could not be saved at step {state.step} {refusal(error)} and continue with --resume; the "
            "checkpoints saved before are whole"
        ) from None


def _place(root: Path, name: str, aside: Path) -> None:
    """Renames the new folder `aside` to `root/name`, after rotating or removing the older ones.

    The oldest is emptied once the new names are on disk, or a power cut could leave an emptied folder under a name.
    What a stranger put in place of a folder, such as a link, is moved and removed as it is.
    """
    old = root / f".{name}.old"  # after a kill, the only one that is whole, until the new one is in place
    if os.path.lexists(root / name):
        names = ROTATION if name == "current" else (name,)
        if os.path.lexists(root / names[-1]):
            remove(old)
            (root / names[-1]).rename(old)
        for newer, older in reversed(list(pairwise(names))):
            if os.path.lexists(root / newer):
                (root / newer).rename(root / older)
    aside.rename(root / name)
    flush_folder(root)
    with suppress(OSError):  # the new one is saved; the next save tries again
        remove(old)
