"""What a step of a preset computes, whatever the numbers: the settings that change the kernels or their sizes.

Runs that compute the same take the same time by rule, and may be one tensor program.
"""

import json
from typing import Any

from nanogrove.config.preset import Preset

# Settings that are numbers in a step which is computed all the same.
CARRIED = {
    "optimizer": ("lr", "adamw_lr", "weight_decay", "betas", "eps", "momentum"),
    "train": ("divergence",),
}
IGNORED = ("name", "description", "seed", "schedule", "evaluate", "sample", "save", "track")


def computation(preset: Preset) -> str:
    """The settings of a preset that say what a step computes, as a text; equal ones compute the same.

    Budgets count in it neither. Dropout of 0 is another computation than any other.
    """
    values: dict[str, Any] = preset.model_dump(mode="json", exclude=set(IGNORED))
    for section, keys in CARRIED.items():
        values[section] = {key: value for key, value in values[section].items() if key not in keys}
    for budget in ("steps", "tokens", "epochs", "minutes"):
        values["train"].pop(budget)
    values["model"]["dropout"] = bool(values["model"]["dropout"])
    return json.dumps(values, sort_keys=True)
