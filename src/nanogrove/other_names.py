"""Presets written with the key names of MuZero-General, a project for small language models, in nanogrove's names.

    model      hidden_size n_embd   num_layers n_layer   num_heads n_head   seq_length block_size
    train      per_gpu_batch_size, times accumulation_steps: batch_size   accumulation_steps accumulation
               eval_tokens evaluate.tokens
    auxiliary  enable_adaptive_sources and adaptive_interval_tokens: method.adaptive

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
AUXILIARY = (
    *("enable_adaptive_sources", "adaptive_interval_tokens", "policy_kl_weight", "value_weight", "dynamics_weight"),
    *("span_contrastive_weight", "span_mask_fraction", "span_contrastive_temperature", "span_l2_normalize"),
)
HEADS = ("enable_policy", "enable_value", "enable_dynamics", "enable_span_contrastive")


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same preset with nanogrove's names, or as it is where it has no other.

    Raises PresetError where a setting is given under both names, and for heads that are asked for.
    """
    preset = {key: dict(part) if isinstance(part, Mapping) else part for key, part in values.items()}
    train = preset.get("train")
    theirs = "auxiliary" in preset or (isinstance(train, dict) and "per_gpu_batch_size" in train)
    if isinstance(train, dict) and "per_gpu_batch_size" in train:
        size, parts = train.pop("per_gpu_batch_size"), train.get("accumulation_steps", 1)
        if not isinstance(size, int) or not isinstance(parts, int):
            raise PresetError(f"train.per_gpu_batch_size and accumulation_steps are whole numbers, not {size}, {parts}")
        _give(preset, ("train", "batch_size"), size * parts, "train.per_gpu_batch_size")
    for (section, name), ours in NAMES.items():
        there = preset.get(section)
        if isinstance(there, dict) and name in there:
            theirs = True
            _give(preset, ours, there.pop(name), f"{section}.{name}")
    _auxiliary(preset, preset.pop("auxiliary", {}))
    train = preset.setdefault("train", {}) if theirs else None
    if isinstance(train, dict) and not {"steps", "tokens", "epochs"} & train.keys():
        train["tokens"] = TOKENS
    return preset


def _give(preset: dict[str, Any], ours: tuple[str, str], value: Any, theirs: str) -> None:
    section = preset.setdefault(ours[0], {})
    if ours[1] in section:
        raise PresetError(f"{theirs} and {'.'.join(ours)} are one setting under two names; give one of them")
    section[ours[1]] = value


def _auxiliary(preset: dict[str, Any], auxiliary: Any) -> None:
    if not isinstance(auxiliary, dict):
        raise PresetError(f"auxiliary: a section is a JSON object, and {auxiliary!r} was given")
    for key, value in auxiliary.items():
        if key not in AUXILIARY + HEADS:
            raise PresetError(f"unknown key auxiliary.{key}; there are {', '.join(AUXILIARY + HEADS)}")
        if key.startswith("enable_") and not isinstance(value, bool):
            raise PresetError(f"auxiliary.{key} is true or false, and {value!r} was given")
    for head in HEADS:
        if auxiliary.get(head):
            raise PresetError(f"auxiliary.{head}: there are no auxiliary heads yet; set it to false")
    if not auxiliary.get("enable_adaptive_sources"):
        return
    method = preset.get("method", {})
    method = {"name": method} if isinstance(method, str) else dict(method)
    if method.get("adaptive"):
        raise PresetError("auxiliary.enable_adaptive_sources and method.adaptive are one setting; give one of them")
    interval = auxiliary.get("adaptive_interval_tokens")
    preset["method"] = {"name": "pretrain", **method, "adaptive": {} if interval is None else {"interval": interval}}
