"""What a step of a preset computes, whatever the numbers: the settings that change the kernels or their sizes.

Runs that compute the same take the same time by rule, and most of them may be one tensor program (`stack.py`).
"""

import json
from typing import Any

from nanogrove.config.preset import Preset
from nanogrove.methods import load_method
from nanogrove.train.loop import BUDGETS

FREE = {  # settings that members of one program may differ in, by section
    "optimizer": ("lr", "adamw_lr", "weight_decay", "betas", "momentum"),
    "model": ("dropout", "init_scale"),
    "method": ("label_smoothing",),
}
FREE_SECTIONS = ("name", "description", "seed", "schedule")
ON_OR_OFF = (("model", "dropout"), ("method", "label_smoothing"))  # computed where they are not 0
BESIDE = ("evaluate", "sample", "save", "track")  # sections of what is done between steps
NUMBERS = {"optimizer": ("eps",), "train": ("divergence", *BUDGETS)}  # of which one program has one


def without(values: dict[str, Any], keys: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The JSON of a preset without some settings, by section."""
    return values | {
        section: {key: value for key, value in values[section].items() if key not in names}
        for section, names in keys.items()
    }


def computation(preset: Preset) -> str:
    """The settings of a preset that say what a step computes, as a text; equal ones compute the same."""
    whole = preset.model_dump(mode="json", exclude={*FREE_SECTIONS, *BESIDE})
    used = {".".join(key): bool(whole[key[0]].get(key[1])) for key in ON_OR_OFF}
    between = {"method": load_method(preset.method.name).between_steps}
    return json.dumps({**without(without(without(whole, FREE), NUMBERS), between), **used}, sort_keys=True)
