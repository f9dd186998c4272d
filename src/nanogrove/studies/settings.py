"""The settings of a study: its arms, its seeds, what is equal between arms, and how it is decided.

A study file is the JSON of `StudySettings`; a command line and Python make the same settings. `preset` and that of an
arm are a preset's name, the path of a file, or a preset's JSON.
"""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from nanogrove.config.catalog import packaged_text
from nanogrove.config.exclusions import BUDGET_KEYS
from nanogrove.errors import StudyError
from nanogrove.settings import Settings, cut, reason

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"  # of a study and of an arm, which name folders
Equal = Literal["tokens", "flops", "time", "data"]
PRESET_TYPES = ("str", "dict[str,any]")  # as pydantic names them in the place of an error
MOST_WAYS = 1_000  # arms × trials of a study
_SEPARATOR = re.compile(r",(?=\s*[A-Za-z_][\w.]*=)")  # between two overrides, and not inside a list of values


class ArmSettings(Settings):
    """One of the ways that are compared: a preset with overrides."""

    name: str = Field(pattern=NAME, description="name of the arm")
    preset: str | dict[str, Any] | None = Field(None, description="a preset of its own; the study's when left out")
    overrides: list[str] = Field([], description="overrides KEY=VALUE of the preset")


class StudySettings(Settings):
    """What a study asks. All arms share its seeds, and every other arm is compared with the first."""

    name: str = Field("study", pattern=NAME, description="name of its folder in studies/")
    preset: str | dict[str, Any] = Field(description="the preset of all arms that have none of their own")
    overrides: list[str] = Field([], description="overrides KEY=VALUE of all arms")
    arms: list[ArmSettings] = Field(min_length=2, description="what is compared; the first is the reference")
    seeds: int = Field(8, ge=1, le=10_000, description="paired seeds, from 0 up")
    equal: Equal = Field(
        "tokens", description="what all arms have the same of: tokens, counted FLOPs, CPU time, or data"
    )
    measure: str | None = Field(None, description="what arms are judged by; the first that all have when left out")
    level: float = Field(0.05, gt=0, lt=0.5, description="largest chance that any verdict is wrong")
    margin: float | None = Field(None, gt=0, description="a difference that does not matter, in units of the measure")
    tune: dict[str, list[Any]] = Field({}, description="values of settings that each arm tries, a grid by key")
    tune_seeds: int = Field(1, ge=1, le=100, description="seeds of each trial, which no comparison uses")
    until_decided: bool = Field(False, description="add seeds until each arm is decided, or to the cap")
    cap: int = Field(24, ge=1, le=10_000, description="most seeds of a study that runs until it is decided")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two arms are called {twice}; give each a name of its own")
        if any(not values for values in self.tune.values()):
            raise ValueError("tune: a setting without values; leave it out, or list what to try")
        ways = len(self.arms) * math.prod(map(len, self.tune.values()))
        if ways > MOST_WAYS:
            raise ValueError(f"arms × values to try make {ways:,} ways to train, and {MOST_WAYS:,} is the most")
        for override in itertools.chain(self.overrides, *(arm.overrides for arm in self.arms)):
            key = override.partition("=")[0].strip()
            if key in self.tune:
                raise ValueError(f"tune sets {key}, and so does {cut(override)}; leave one of them out")
        budget = next((key for key in self.tune if key in BUDGET_KEYS), None)
        if budget is not None and self.equal != "data":
            raise ValueError(
                f"tune sets {budget}, and equal {self.equal} gives every trial the {self.equal} of the first; choose "
                "equal data, or leave it out"
            )
        if self.until_decided and self.cap < self.seeds:
            raise ValueError(f"cap {self.cap} is less than the {self.seeds} seeds that it begins with; raise it")
        return self

    @property
    def trials(self) -> list[tuple[str, ...]]:
        """The overrides of each trial of an arm; one without overrides where nothing is tuned."""
        columns = [[f"{key}={_as_text(value)}" for value in values] for key, values in self.tune.items()]
        return list(itertools.product(*columns))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_settings(values: object, where: str) -> StudySettings:
    """The settings of a study from its JSON. Raises StudyError, which names `where`, for any that are wrong."""
    if not isinstance(values, Mapping):
        raise StudyError(f"{where}: not a study; a study is a JSON object with a preset and arms")
    try:
        return StudySettings.model_validate(_with_absolute_presets(values))
    except ValidationError as error:
        problems = error.errors()
        key = ".".join(str(part) for part in problems[0]["loc"] if part not in PRESET_TYPES)
        named = f"{cut(key)} " if key else ""
        if problems[0]["type"] == "extra_forbidden":
            known = ", ".join(StudySettings.model_fields)
            raise StudyError(f"{where}: unknown key {cut(key)}; a study has {known}") from None
        raise StudyError(f"{where}: {named}{reason(problems)}") from None


def _with_absolute_presets(values: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a study whose presets are files by paths that mean the same from another folder."""
    arms = values.get("arms")
    entries = [_absolute(arm) if isinstance(arm, Mapping) else arm for arm in arms] if isinstance(arms, list) else arms
    return {**_absolute(values), "arms": entries}


def _absolute(section: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a study or of an arm, its preset by an absolute path where it is a file."""
    preset = section.get("preset")
    if isinstance(preset, str) and packaged_text(preset) is None and Path(preset).is_file():
        return {**section, "preset": str(Path(preset).absolute())}
    return dict(section)


def parse_arm(text: str) -> dict[str, Any]:
    """The settings of an arm from `NAME`, or `NAME:KEY=VALUE,KEY=VALUE`; the key `preset` gives it a preset of its own.

    >>> parse_arm("adamw:optimizer.name=adamw,optimizer.betas=[0.9,0.99]")["overrides"]
    ['optimizer.name=adamw', 'optimizer.betas=[0.9,0.99]']
    """
    name, colon, rest = text.partition(":")
    arm: dict[str, Any] = {"name": name.strip(), "overrides": []}
    if not re.match(NAME, arm["name"]):
        raise StudyError(
            f"--arm {cut(text)}: an arm is NAME or NAME:KEY=VALUE,KEY=VALUE, with a name of letters, digits, dots and "
            "dashes, as in --arm adamw:optimizer.name=adamw"
        )
    for override in _SEPARATOR.split(rest) if colon else ():
        if override.strip().startswith("preset="):
            arm["preset"] = override.strip().removeprefix("preset=")
        elif "=" in override:
            arm["overrides"].append(override.strip())
        else:
            raise StudyError(f"--arm {cut(text)}: {cut(override)!r} is not KEY=VALUE")
    return arm


def parse_tune(texts: Sequence[str]) -> dict[str, list[str]]:
    """What each arm tries, from `KEY=VALUE,VALUE` of each setting."""
    tune: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise StudyError(f"--tune {cut(text)}: give KEY=VALUE,VALUE, as in --tune optimizer.lr=.003,.01")
        if key.strip() in tune:
            raise StudyError(f"--tune {key.strip()} is given twice; list all of its values once")
        tune[key.strip()] = [value.strip() for value in values.split(",")]
    return tune


def leave_one_out(switches: Sequence[str]) -> list[dict[str, Any]]:
    """Arms from overrides that switch things on: `all` of them, and one arm without each.

    >>> [arm["name"] for arm in leave_one_out(["model.dropout=0.1", "model.bias=true"])]
    ['all', 'without-model.dropout', 'without-model.bias']
    """
    for switch in switches:
        if "=" not in switch:
            raise StudyError(f"--leave-one-out {cut(switch)}: give what switches it on, as KEY=VALUE")
    keys = [switch.partition("=")[0].strip() for switch in switches]
    for key in keys:
        if keys.count(key) > 1:
            raise StudyError(f"--leave-one-out {cut(key)} is given twice; give each setting once")
    arms: list[dict[str, Any]] = [{"name": "all", "overrides": list(switches)}]
    for key, left in zip(keys, switches, strict=True):
        others = [switch for switch in switches if switch != left]
        arms.append({"name": f"without-{key}", "overrides": others})
    return arms
