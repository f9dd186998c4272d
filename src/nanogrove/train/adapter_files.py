"""Adapters as files that `peft` reads, `adapter_config.json` and `adapter_model.safetensors`, and such files read back.

Tensors are named and laid out as `peft` does for the model's family; of a model that no family of `transformers`
expresses, under the names that it has here. The digest of the weights that they adapt stands in the safetensors file,
so that adapters of other weights are refused even where all shapes fit.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nanogrove.errors import CheckpointError
from nanogrove.json_reading import BadJsonError, parse_json
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.storage import storage_of
from nanogrove.settings import shown
from nanogrove.train.checkpoint import read_plain
from nanogrove.train.lora import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of each name, since `peft` wraps a model
DIGEST = "adapted_weights_sha256"  # in the metadata of the safetensors file
IDLE = """auto_mapping base_model_name_or_path ensure_weight_tying exclude_modules fan_in_fan_out inference_mode
    layers_pattern layers_to_transform lora_alpha lora_dropout megatron_core modules_to_save peft_type peft_version
    qalora_group_size r revision target_modules task_type use_rslora"""  # keys that change no number, or are read here
ONLY: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the weights that are adapted
}


def adapter_files(adapter: Adapter, model: GPT, member: int | None) -> dict[str, bytes]:
    """The files of the adapters of one model, or of a member of a population, by name."""

    def single(tensor: Tensor) -> Tensor:
        return (tensor if member is None else tensor[member]).detach().cpu()

    storage, tensors = storage_of(model.config), {}
    for each in adapter.low_rank():
        name = f"{PREFIX}{each.part.name}"
        tensors[f"{name}.lora_A.weight"] = single(each.a.weight)
        tensors[f"{name}.lora_B.weight"] = storage.layout(f"{name}.lora_B.weight", single(each.b.weight))
    for path in adapter.whole:
        for kind, parameter in model.get_submodule(path).named_parameters():
            name = f"{PREFIX}{storage.parts[path][0].name}.{kind}"
            tensors[name] = storage.layout(name, single(parameter))
    adapted = {_known_as(each.part.name) for each in adapter.low_rank()}
    settings = {
        "peft_type": "LORA",
        "task_type": None if model.config.scalar else "CAUSAL_LM",
        "base_model_name_or_path": adapter.source,
        "r": adapter.config.rank,
        "lora_alpha": adapter.config.alpha,
        "target_modules": sorted(adapted),
        "modules_to_save": [_known_as(storage.parts[path][0].name) for path in adapter.whole] or None,
        "fan_in_fan_out": storage.family == "gpt2",
        "bias": "none",
        "inference_mode": True,
    }
    metadata = {DIGEST: _digest({path: single(base) for path, base in adapter.base.items()})}  # one key has one order
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return {
        CONFIG: (json.dumps(settings, indent=2) + "\n").encode(),
        WEIGHTS: safetensors.torch.save(whole, metadata=metadata),
    }


def _known_as(name: str) -> str:
    """The end of a module's name, by which `peft` finds it in each block."""
    return ".".join(name.split(".")[-2:])


def _digest(base: Mapping[str, Tensor]) -> str:
    """The SHA-256 of weights by name."""
    digest = hashlib.sha256()
    for path in sorted(base):
        digest.update(path.encode() + b"\0")
        digest.update(base[path].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters alone; a checkpoint holds the whole model too."""
    return (folder / CONFIG).exists() and not (folder / "state.json").exists()


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the adapters in a folder. Raises CheckpointError for what is damaged or unknown here."""
    path = folder / CONFIG
    try:
        settings = parse_json(read_plain(path))
    except BadJsonError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: is no JSON object")
    for key, value in settings.items():
        if value not in ONLY[key] if key in ONLY else bool(value) and key not in IDLE.split():
            raise CheckpointError(
                f"{path}: {key}={shown(value)} is not supported; merge the adapters with merge_and_unload() of peft, "
                "and begin with the folder that save_pretrained writes"
            )
    if not isinstance(settings.get("base_model_name_or_path"), str):
        raise CheckpointError(f"{path}: base_model_name_or_path is missing; write the adapted model's folder there")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path}: r={shown(rank)} and lora_alpha={shown(alpha)} are no rank and scale")
    return settings


def merge(folder: Path, settings: Mapping[str, Any], config: ModelConfig, weights: dict[str, Tensor]) -> None:
    """Replaces the weights of a model of `config` by what the adapters in a folder make of them.

    Raises CheckpointError where the adapters are of another model, or of other weights.
    """
    tensors, digest = _read(folder / WEIGHTS)
    other = f"{folder}: is an adapter of another model than {settings['base_model_name_or_path']}"
    storage, rank, adapted = storage_of(config), settings["r"], dict[str, Tensor]()
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    for path, parts in storage.parts.items():
        pairs = [(part, *_take_pair(tensors, part.name)) for part in parts]
        if all(a is None and b is None for _, a, b in pairs):
            continue
        adapted[path] = weights[f"{path}.weight"]
        weights[f"{path}.weight"] = adapted[path].clone()
        for part, a, b in pairs:
            expected = [(rank, adapted[path].shape[-1]), (part.stop - part.start, rank)]
            if a is None and b is None:
                continue
            if a is None or b is None or [tuple(a.shape), tuple(b.shape)] != expected:
                raise CheckpointError(f"{other}: its A and B of {part.name} are not {expected[0]} and {expected[1]}")
            b = storage.layout(f"{part.name}.lora_B.weight", b.float())
            part.rows(weights[f"{path}.weight"]).add_(b @ a.float(), alpha=scale)
    if digest not in (None, _digest(adapted)):
        raise CheckpointError(f"{other}: it adapts other weights; write the folder of these to base_model_name_or_path")
    for name, weight in list(weights.items()):
        path, _, kind = name.rpartition(".")
        stored = f"{storage.parts[path][0].name}.{kind}"
        if (whole := tensors.pop(PREFIX + stored, None)) is not None:
            weights[name] = storage.layout(stored, whole.float()).contiguous()
            if weights[name].shape[1:] != weight.shape[1:]:
                raise CheckpointError(f"{other}: {stored} is {tuple(whole.shape)}, and not {tuple(weight.shape)}")
    if tensors:
        raise CheckpointError(f"{other}: that has no {min(tensors).removeprefix(PREFIX)}")


def _take_pair(tensors: dict[str, Tensor], name: str) -> tuple[Tensor | None, Tensor | None]:
    """The A and B of a map, taken out of all tensors."""
    a, b = (tensors.pop(f"{PREFIX}{name}.lora_{which}.weight", None) for which in "AB")
    return a, b


def _read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a safetensors file, and the digest in its metadata, if there is one."""
    data = read_plain(path)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        digest = header.get("__metadata__", {}).get(DIGEST)
        return safetensors.torch.load(data), digest if isinstance(digest, str) else None
    except (SafetensorError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
