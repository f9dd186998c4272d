"""Checkpoints: folders of safetensors and JSON that a kill, a full disk or a stranger cannot turn against the user.

    model.safetensors  heads.safetensors  optimizer.safetensors  kept.safetensors  lora.safetensors  average.safetensors
    config.json  tokenizer.json  chat_template.jinja  state.json

`heads.safetensors` exists where auxiliary heads train beside the model, which is complete without them;
`kept.safetensors` where the method keeps tensors, such as the weights it may fall back to; `lora.safetensors` where
adapters are trained: these and what they adapt, while the model holds them merged; `average.safetensors` where the
average of what is trained is scored: all weights of that model, and the averages of heads and adapters;
`chat_template.jinja` where the data are conversations. `state.json` holds the step, the method's state (`notes`), the
position in the record and a checksum of every other file and of itself.

A population has a population axis in `model.safetensors`. Its members are models by themselves, of which the best one
is kept, but where `state.json` says `ensemble`: then the first so many of them predict together, and are kept together.

A folder is written under another name, flushed to disk and renamed, so that the old one or the new one is always
complete; before that, `current` moves to `prev` and `prev` to `prev2`. Loading refuses links, unknown formats and files
whose checksum differs, and reads nothing but safetensors and JSON: no code can hide in a checkpoint.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import CheckpointError, DataError
from nanogrove.json_reading import parse_json
from nanogrove.memory import free_bytes, shown_bytes
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.model.members import unstack
from nanogrove.model.size import parameter_shapes
from nanogrove.settings import Count, reason
from nanogrove.train.state import TrainState, load_optimizer_tensors
from nanogrove.train.weights import check_weights, load_weights, shapes_of
from nanogrove.waits import waiting

FORMAT = 1
STUDENT = "student"  # the checkpoint of a model that learned from an ensemble
ROTATION = ("current", "prev", "prev2")
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"  # of a folder for `transformers`
MAX_BYTES = {"state.json": 16_000_000, "config.json": 1_000_000, "calibration.json": 16_000_000, TEMPLATE: 1 << 18}
MAX_BYTES[TOKENIZER_CONFIG] = 16_000_000
MAX_HEADER_BYTES = 16_000_000  # of safetensors: the names and shapes of its tensors, in JSON
LORA = "lora.safetensors"  # adapters, and the weights that they adapt
AVERAGE = "average.safetensors"  # of what is trained along training
FILES = ("model.safetensors", "heads.safetensors", "optimizer.safetensors", "kept.safetensors", LORA, AVERAGE)


class BestState(BaseModel):
    """The best evaluation until then."""

    step: Count
    score: float
    member: Count


class State(BaseModel):
    """What `state.json` must hold; whoever saves may add more."""

    step: Count
    tokens: Count
    round: Count
    seconds: float
    notes: dict[str, Any]
    files: dict[str, str]
    position: Count = 0
    best: BestState | None = None
    stale: Count = 0
    ensemble: Count = 0
    averaged: Count = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: weights by name, moments where it has them, and what `state.json` holds."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None
    method_tensors: dict[str, Tensor]
    state: dict[str, Any]
    heads: dict[str, Tensor]
    lora: dict[str, Tensor]
    average: dict[str, Tensor]

    @property
    def scored(self) -> dict[str, Tensor]:
        """The weights of the model that was scored: their average where there is one."""
        return {name: self.average[name] for name in self.model} if self.average else self.model

    def restore(self, state: TrainState) -> None:
        """Sets weights, moments and counters of a training state. Raises CheckpointError where they do not fit."""
        if self.optimizer is None or not {"position", "best"} <= self.state.keys():
            raise CheckpointError(f"{self.folder}: holds weights only and cannot be resumed from; use current")
        load_weights(state.model, self.model, self.folder)
        if state.heads is not None:
            load_weights(state.heads, self.heads, self.folder / "heads.safetensors")
        if state.adapter is not None:
            state.adapter.load(self.lora, self.folder / LORA)
        if state.average is not None:
            state.average.load(self.average, int(self.state.get("averaged", 1)), self.folder / AVERAGE)
        try:
            load_optimizer_tensors(state, self.optimizer)
        except ValueError as error:
            raise CheckpointError(f"{self.folder}: optimizer.safetensors does not fit the model ({error})") from None
        state.step, state.tokens, state.round = (int(self.state[key]) for key in ("step", "tokens", "round"))
        state.seconds, state.ensemble = float(self.state["seconds"]), self.state.get("ensemble", 0)
        state.method_state, state.method_tensors = dict(self.state["notes"]), dict(self.method_tensors)


def checksum_of(record: dict[str, Any]) -> str:
    """The checksum of a JSON object without its own `checksum`."""
    bare = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def read_plain(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises CheckpointError for a link, a missing or an unreadable file, and for one that does not fit in memory twice,
    as bytes and as what they hold; JSON has limits of its own, since its objects take many times as much.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CheckpointError(f"{path}: is a link or no file; a checkpoint holds plain files only")
    try:
        size, limit = path.stat().st_size, MAX_BYTES.get(path.name, free_bytes() // 2)
        if size > limit:
            raise CheckpointError(f"{path}: takes {shown_bytes(size)}, and it may take {shown_bytes(limit)} at most")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint folder. Raises CheckpointError, in one line, for anything that is not whole and plain."""
    _check_plain(folder)
    try:
        record = parse_json(read_plain(folder / "state.json"))
        if not isinstance(record, dict):
            raise TypeError
        if record["format"] != FORMAT:
            raise CheckpointError(
                f"{folder}: has checkpoint format {record['format']}, and this nanogrove reads format {FORMAT}; "
                "use the nanogrove that wrote it"
            )
        if record["checksum"] != checksum_of(record):
            raise CheckpointError(f"{folder / 'state.json'}: damaged, its checksum differs")
        checksums = State.model_validate(record).files
    except ValidationError as error:
        key, problems = ".".join(map(str, error.errors()[0]["loc"])), error.errors()
        raise CheckpointError(f"{folder / 'state.json'}: damaged, {key} {reason(problems)}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{folder / 'state.json'}: damaged, not the state of a checkpoint") from None
    files = {}
    names = [name for name in (*FILES, "config.json", "tokenizer.json", TEMPLATE) if name in checksums]
    size = sum((folder / name).stat().st_size for name in names if (folder / name).is_file())
    with waiting(f"reading {folder}", size) as wait:
        for name in names:
            files[name] = read_plain(folder / name)
            if hashlib.sha256(files[name]).hexdigest() != checksums[name]:
                raise CheckpointError(f"{folder / name}: damaged, its checksum differs")
            wait.done += len(files[name])
    try:
        config = ModelConfig.model_validate_json(files["config.json"])
        template = files[TEMPLATE].decode() if TEMPLATE in files else None
        tokenizer = Tokenizer.from_json(files["tokenizer.json"].decode(), str(folder / "tokenizer.json"), template)
        model = _tensors(files["model.safetensors"])
        moments = files.get("optimizer.safetensors")
        optimizer = None if moments is None else _tensors(moments)
        kept, heads, lora, average = (
            _tensors(files[name]) if name in files else {}
            for name in ("kept.safetensors", "heads.safetensors", LORA, AVERAGE)
        )
    except KeyError as error:
        raise CheckpointError(f"{folder}: incomplete, {error} is missing") from None
    except ValidationError as error:
        key, problems = ".".join(map(str, error.errors()[0]["loc"])) or "model", error.errors()
        why = "is no setting of a model" if problems[0]["type"] == "extra_forbidden" else reason(problems)
        raise CheckpointError(f"{folder}: a file in it is not what its name says (config.json: {key} {why})") from None
    except (DataError, SafetensorError, ValueError) as error:
        why = str(error).split("\n")[0]
        raise CheckpointError(f"{folder}: a file in it is not what its name says ({why})") from None
    if config.vocab_size is None or tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}; "
            "they are not of one run"
        )
    if config.within_documents and config.document_mark is None:
        raise CheckpointError(f"{folder / 'config.json'}: damaged, within_documents is set and document_mark is not")
    if config.position == "coupled" and config.coupled_tokens is None:
        raise CheckpointError(f"{folder / 'config.json'}: damaged, position is coupled and coupled_tokens are not set")
    embed = model.get("embed.weight", torch.empty(0))
    members = len(embed) if embed.dim() == 3 else None
    shapes = parameter_shapes(config, members)
    check_weights(model, shapes, folder)
    if average:
        check_weights({name: average[name] for name in shapes.keys() & average.keys()}, shapes, folder / AVERAGE)
    if record.get("ensemble", 0) > (members or 0):
        raise CheckpointError(
            f"{folder / 'state.json'}: damaged, it is of an ensemble of {record['ensemble']} models, and "
            f"model.safetensors holds {members or 1}"
        )
    return Checkpoint(folder, config, tokenizer, model, optimizer, kept, record, heads, lora, average)


def _tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises SafetensorError, and ValueError for a header too long for tensors."""
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER_BYTES:
        raise ValueError(f"its header takes {shown_bytes(header)}, and {shown_bytes(MAX_HEADER_BYTES)} is the most")
    return safetensors.torch.load(data)


def _check_plain(folder: Path) -> None:
    if folder.is_symlink():
        raise CheckpointError(f"{folder}: is a link; checkpoints lie in plain folders")


def load_latest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint of `current`, `prev`, `prev2`, and a line for each missing or damaged one before.

    None where no checkpoint exists. Raises CheckpointError where all that exist are damaged.
    """
    _check_plain(root)
    problems: list[str] = []
    for name in ROTATION if any(os.path.lexists(root / name) for name in ROTATION) else ():
        try:
            if not os.path.lexists(root / name):
                raise CheckpointError(f"{root / name}: missing")
            return load_checkpoint(root / name), problems
        except CheckpointError as error:
            problems.append(str(error))
    if not problems:
        return None, []
    raise CheckpointError("no whole checkpoint is left, start anew with another --out: " + "; ".join(problems))


def load_best(root: Path) -> Checkpoint:
    """The best checkpoint by validation, or the newest where none was scored yet. Raises CheckpointError."""
    _check_plain(root)
    for name in ("best", ".best.old"):  # a kill between two renames leaves the second name
        if (root / name).exists() or (root / name).is_symlink():
            return load_checkpoint(root / name)
    checkpoint, _ = load_latest(root)
    if checkpoint is None:
        raise CheckpointError(f"{root}: no checkpoint yet; train until the first one is saved")
    return checkpoint


def load_student(root: Path, device: str | torch.device = "cpu") -> GPT | None:
    """The best student of an ensemble, in a folder of checkpoints; None where there is none. Raises CheckpointError."""
    for name in (STUDENT, f".{STUDENT}.old"):
        if os.path.lexists(root / name):
            return model_of(load_checkpoint(root / name), device)
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """The best checkpoint of a run folder, or the checkpoint that `path` itself is.

    Raises CheckpointError when there is none, or it is damaged, or a link.
    """
    if (path / "state.json").exists():
        return load_checkpoint(path)
    root = path / "checkpoints"
    if not root.is_dir() or root.is_symlink():
        raise CheckpointError(f"{path}: neither a run nor a checkpoint; give a folder such as runs/NAME")
    return load_best(root)


def model_of(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> GPT:
    """The one model a checkpoint holds; of a population that was never scored, its first member.

    Raises CheckpointError for an ensemble, and for weights that are NaN or infinite.
    """
    if count := checkpoint.state.get("ensemble", 0):
        student = checkpoint.folder.parent / STUDENT
        cure = f"give {student}, the model that method.distill_steps made of them"
        if not os.path.lexists(student):
            cure = "it has no student: train one with method.distill_steps=300 or more, and give checkpoints/student"
        raise CheckpointError(f"{checkpoint.folder}: is an ensemble of {count} models, and one is needed here; {cure}")
    weights = checkpoint.scored
    if weights.get("embed.weight", torch.empty(0)).dim() == 3:
        weights = unstack(weights, 0)
    return _built(checkpoint, weights, None, device)


def predictor_of(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> GPT:
    """The model of `model_of` or, of an ensemble, the population of the members that predict together.

    Raises CheckpointError for weights that are NaN or infinite.
    """
    count = checkpoint.state.get("ensemble", 0)
    if not count:
        return model_of(checkpoint, device)
    weights = {name: tensor[:count] for name, tensor in checkpoint.scored.items()}
    return _built(checkpoint, weights, count, device)


def _built(
    checkpoint: Checkpoint, weights: dict[str, Tensor], population: int | None, device: str | torch.device
) -> GPT:
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{checkpoint.folder}: weight {name} is NaN or infinite, so this model computes nothing; take another "
                "checkpoint of its run, or train it anew"
            )
    model = GPT(checkpoint.config, population)
    load_weights(model, weights, checkpoint.folder)
    return model.to(device)


def heads_of(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> Heads | None:
    """The auxiliary heads that trained beside the model of `model_of`, where there were any."""
    if not checkpoint.heads:
        return None
    weights = checkpoint.heads
    if checkpoint.model["embed.weight"].dim() == 3:
        weights = unstack(weights, 0)
    try:
        settings = AuxiliaryConfig.model_validate(checkpoint.state.get("auxiliary"))
    except ValidationError:
        raise CheckpointError(f"{checkpoint.folder}: state.json does not tell what its heads are; train anew") from None
    with torch.device("meta"):  # heads of other sizes than the file's could take all memory
        expected = shapes_of(Heads(settings, checkpoint.config))
    check_weights(weights, expected, checkpoint.folder / "heads.safetensors")
    heads = Heads(settings, checkpoint.config)
    heads.load_state_dict(weights)
    return heads.to(device)


def load_members(path: Path, tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of the models in a checkpoint, or in the last state of a run, stacked, of one model too.

    Raises CheckpointError where there is none, or one of another vocabulary or another model than `config`.
    """
    is_checkpoint = (path / "state.json").exists()
    checkpoint = load_checkpoint(path) if is_checkpoint else load_latest(path / "checkpoints")[0]
    if checkpoint is None:
        raise CheckpointError(f"{path}: neither a run nor a checkpoint; give a folder such as runs/NAME")
    if checkpoint.tokenizer.to_json() != tokenizer.to_json():
        raise CheckpointError(f"{path}: has another vocabulary than the data; give a run on the same task")
    check_same_model(path, checkpoint.config, config)
    weights = checkpoint.scored
    if weights["embed.weight"].dim() == 2:
        weights = {name: tensor[None] for name, tensor in weights.items()}
    return weights


def check_same_model(where: Path | str, theirs: ModelConfig, ours: ModelConfig, free: Sequence[str] = ()) -> None:
    """Raises CheckpointError, naming `where`, for models that differ in a setting on which a weight or its use depends.

    Those that are `free` do not count.
    """
    derived = {"head_size", "n_kv_head", "n_inner"}  # where they are left out; compared last
    settings, expected = (
        {**c.model_dump(exclude=derived), "head_size": c.head_width, "n_kv_head": c.kv_heads, "n_inner": c.inner_size}
        for c in (theirs, ours)
    )
    has_table = ours.position in ("learned", "coupled")
    idle = {"family", "dropout", "init_scale", *free, *(() if has_table else ("block_size",))}
    for key in settings:
        if key not in idle and settings[key] != expected[key]:
            raise CheckpointError(f"{where}: is another model, its {key} is {settings[key]} and here {expected[key]}")
