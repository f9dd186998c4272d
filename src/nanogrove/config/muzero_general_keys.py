"""Presets written with the key names of MuZero-General, a project for small language models, in nanogrove's names.

    model      hidden_size n_embd   num_layers n_layer   num_heads n_head   seq_length block_size
    train      per_gpu_batch_size, times accumulation_steps: batch_size   accumulation_steps accumulation
               eval_tokens evaluate.tokens
    auxiliary  enable_adaptive_sources and adaptive_interval_tokens: method.adaptive; the heads have their names here

Such a preset names no budget; it gets `TOKENS`.
"""

from collections.abc import Mapping
from typing import Any

from nanogrove.errors import PresetError

TOKENS = 100_000_000
NAMES = {
    ("model", "hidden_size"): ("model", "n_embd"),
    ("model", "num_layers"): ("model", "n_layer"),
    ("model", "num_heads"): ("model", "n_head"),
    ("model", "seq_length"): ("model", "block_size"),
    ("train", "accumulation_steps"): ("train", "accumulation"),
    ("train", "eval_tokens"): ("evaluate", "tokens"),
}
ADAPTIVE = ("enable_adaptive_sources", "adaptive_interval_tokens")


def translated(values: Mapping[str, object]) -> dict[str, Any]:
    """The preset with nanogrove's names; unchanged where it has no other names.

    Raises PresetError where a setting is given under both names.
    """
    preset = {key: dict(part) if isinstance(part, Mapping) else part for key, part in values.items()}
    train = preset.get("train")
    theirs = isinstance(train, dict) and "per_gpu_batch_size" in train
    if isinstance(train, dict) and "per_gpu_batch_size" in train:
        size, parts = train.pop("per_gpu_batch_size"), train.get("accumulation_steps", 1)
        if not isinstance(size, int) or not isinstance(parts, int):
            raise PresetError(f"train.per_gpu_batch_size and accumulation_steps are whole numbers, not {size}, {parts}")
        _give(preset, ("train", "batch_size"), size * parts, "train.per_gpu_batch_size")
    for (section, name), ours in NAMES.items():
        settings = preset.get(section)
        if isinstance(settings, dict) and name in settings:
            theirs = True
            _give(preset, ours, settings.pop(name), f"{section}.{name}")
    auxiliary = preset.get("auxiliary")
    if isinstance(auxiliary, dict) and set(ADAPTIVE) & auxiliary.keys():
        theirs = True
        _adaptive(preset, *(auxiliary.pop(key, None) for key in ADAPTIVE))
    train = preset.setdefault("train", {}) if theirs else None
    if isinstance(train, dict) and not {"steps", "tokens", "epochs", "minutes"} & train.keys():
        train["tokens"] = TOKENS
    return preset


def _give(preset: dict[str, Any], ours: tuple[str, str], value: object, theirs: str) -> None:
    section = preset.setdefault(ours[0], {})
    if ours[1] in section:
        raise PresetError(f"{theirs} and {'.'.join(ours)} are one setting under two names; give one of them")
    section[ours[1]] = value


def _adaptive(preset: dict[str, Any], enabled: object, interval: object) -> None:
    if not isinstance(enabled, bool | None):
        raise PresetError(f"auxiliary.enable_adaptive_sources is true or false, and {enabled!r} was given")
    if not enabled:
        return
    method = preset.get("method", {})
    method = {"name": method} if isinstance(method, str) else dict(method)
    if method.get("adaptive"):
        raise PresetError("auxiliary.enable_adaptive_sources and method.adaptive are one setting; give one of them")
    preset["method"] = {"name": "pretrain", **method, "adaptive": {} if interval is None else {"interval": interval}}
