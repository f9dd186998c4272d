"""The `start` event of a run, and its circumstances: what its bits may depend on besides the preset."""

import platform
from functools import cache
from importlib import metadata
from typing import Any

import torch

from nanogrove.record.events import Event
from nanogrove.runs.setup import Setup
from nanogrove.train.autotune import cores, device_name, instructions
from nanogrove.train.parallel.members import difference_from_alone
from nanogrove.train.precision import unpacked
from nanogrove.train.state import TrainState

CIRCUMSTANCES = ("start", "resume")  # the events that hold them
BIT_DEPENDENCIES = {"versions": ("nanogrove", "torch"), "machine": ("processor", "instructions", "threads")}


Changes = dict[str, list[object]]  # by circumstance, its earlier and its present value


def start_event(setup: Setup, state: TrainState) -> Event:
    """The first event of a record: the run's model, data, number format and circumstances."""
    preset, plan, heads = setup.preset, setup.plan, state.heads
    values = {
        "name": preset.name,
        "method": preset.method.name,
        "seed": preset.seed,
        "parameters": state.model.parameter_count(),
        **({} if heads is None else {"head_parameters": heads.parameter_count()}),
        "vocabulary": setup.model_on_data.vocab_size,
        "steps": plan.steps,
        "data": setup.corpus.describe(),
        "precision": plan.precision,
        "precision_reason": setup.precision_reason,
        "decoding": setup.sample_precision,
        "decoding_reason": "the format of training" + unpacked(setup.sample_precision),
        "micro_batches": plan.accumulation,
        "compile": plan.compile,
        "device": str(setup.device),
        **({"scored": preset.train.average.described()} if preset.train.average.enabled else {}),
        **({"init": [each.digest for each in setup.initial]} if setup.initial else {}),
        **circumstances(setup),
    }
    if state.model.population is not None and plan.ranks.world == 1:
        values["members_differ"] = difference_from_alone(state, setup.corpus.batch(0), plan)
    return Event("start", state.step, values, setup.budget)


@cache  # to read it takes some milliseconds, and every checkpoint names it
def installed_version() -> str:
    """The version of nanogrove that is installed."""
    return metadata.version("nanogrove")


def circumstances(setup: Setup) -> dict[str, object]:
    """Ranks, versions and machine: what bits may depend on besides the preset."""
    ranks = setup.plan.ranks.world
    return {
        **({"ranks": ranks} if ranks > 1 else {}),
        "versions": {
            "nanogrove": installed_version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "system": platform.platform(),
            "processor": device_name(setup.whole_device),
            "instructions": instructions(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
        },
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> Changes:
    """The circumstances that differ, by name, each with its earlier and present value.

    Only those that bits may depend on count, and only those that the earlier record has.
    """
    pairs = {"ranks": [before.get("ranks", 1), now.get("ranks", 1)]}
    for section, names in BIT_DEPENDENCIES.items():
        known = before.get(section, {})
        pairs |= {name: [known[name], now[section][name]] for name in names if name in known}
    if "instructions" not in before.get("machine", {}):
        pairs.pop("processor", None)  # such a record names the processor in another way
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
