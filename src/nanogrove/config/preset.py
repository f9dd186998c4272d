"""Presets: one JSON file says everything about a run, and each of its keys can be overridden as `section.key=value`.

Sections are the settings classes that stand beside what they configure. An unknown key or a value of the wrong type
is refused with the key named and, where one is near, the key that was meant.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from nanogrove.config.catalog import preset_text, unknown_preset
from nanogrove.config.muzero_general_keys import translated
from nanogrove.data.rewarded import PreferencesConfig, RewardedConfig
from nanogrove.data.text.config import DataConfig
from nanogrove.decoding.loop import Sampling
from nanogrove.errors import PresetError, nearest
from nanogrove.methods import METHODS, load_method
from nanogrove.model.gpt import ModelConfig
from nanogrove.model.heads import AuxiliaryConfig
from nanogrove.synthetic.corpus import RHMConfig, RLMConfig
from nanogrove.synthetic.examples import TaskConfig
from nanogrove.train.autotune import AUTO
from nanogrove.train.loop import BUDGETS, TrainConfig
from nanogrove.train.optim.optimizer import OptimizerConfig
from nanogrove.train.optim.schedule import ScheduleConfig


class EvaluateConfig(BaseModel):
    """When to score the model on validation text, and on how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(250, ge=1, description="steps")
    early: bool = Field(False, description="also behind step 1, 2, 4, 8, …")
    tokens: int | None = Field(100_000, ge=1, description="evenly spread; null for the whole split")


class SampleConfig(Sampling):
    """When to write a sample, from which prompts, and how."""

    every: int = Field(500, ge=1, description="steps")
    prompts: list[str] = Field([""], description="an empty one starts a document")
    tokens: int = Field(200, ge=0, description="0 writes none")
    top_p: float | None = Field(0.95, gt=0, le=1, description="keep the fewest tokens whose probabilities reach p")


class SaveConfig(BaseModel):
    """When to save."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(250, ge=1, description="steps")
    snapshots: bool = Field(False, description="also keep step-1, step-2, step-4, step-8, …")


class TrackConfig(BaseModel):
    """Where else events go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trackers: list[Literal["wandb", "tensorboard", "trackio"]] = Field([], description="libraries that get the events")
    project: str = Field("nanogrove", description="name of the project there")
    name: str | None = Field(None, description="of the run there; the run folder's when left out")


DATA: dict[str, type[BaseModel]] = {
    "text": DataConfig,
    "rlm": RLMConfig,
    "rhm": RHMConfig,
    "task": TaskConfig,
    "rewarded": RewardedConfig,
    "preferences": PreferencesConfig,
}


def _data_type(value: Any) -> str | None:
    """The type of a `data` section; text where it names none."""
    kind = value.get("type", "text") if isinstance(value, Mapping) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


Data = Annotated[
    Annotated[DataConfig, Tag("text")]
    | Annotated[RLMConfig, Tag("rlm")]
    | Annotated[RHMConfig, Tag("rhm")]
    | Annotated[TaskConfig, Tag("task")]
    | Annotated[RewardedConfig, Tag("rewarded")]
    | Annotated[PreferencesConfig, Tag("preferences")],
    Discriminator(
        _data_type,
        custom_error_type="data_type",
        custom_error_message=f"data is a JSON object whose type is one of {', '.join(DATA)}",
    ),
]


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Preset(BaseModel):
    """Everything needed to run, and to run again."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run folder in runs/")
    description: str = Field("", description="one line, shown by `nanogrove presets`")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of weights, batches, dropout and samples")
    method: Annotated[dict[str, Any], BeforeValidator(_named)] = {"name": "pretrain"}
    data: Data
    model: ModelConfig = ModelConfig()
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    train: TrainConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sample: SampleConfig = SampleConfig()
    save: SaveConfig = SaveConfig()
    track: TrackConfig = TrackConfig()

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: dict[str, Any]) -> dict[str, Any]:
        name = method.get("name")
        if name not in METHODS:
            raise ValueError(f"no method is called {name!r}{_nearest(str(name), METHODS)}")
        settings = load_method(name).Config.model_validate({k: v for k, v in method.items() if k != "name"})
        return {"name": name, **settings.model_dump(mode="json")}

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        config, method, given = self.method_config(), self.method["name"], self.train.budgets
        counts = " and ".join(f"method.{name}" for name in getattr(config, "counted_by", ()))
        listed = " and ".join(given) + (" is set" if len(given) == 1 else " are set") if given else "no budget is set"
        if hasattr(config, "steps"):
            if given:
                raise ValueError(
                    f"train: {listed}, and method {method} counts its own steps; leave it out, set {counts}"
                )
            return self
        if len(given) != 1:
            raise ValueError(f"train: {listed}; {'keep' if given else 'set'} one of steps, tokens, epochs and minutes")
        total = getattr(config, "total_steps", lambda steps: steps)
        if self.train.minutes is not None and total(1) == total(0):
            raise ValueError(
                f"train.minutes: with method.base, method {method} counts its own steps; set {counts}, and "
                "train.steps=1 in place of minutes"
            )
        return self

    @model_validator(mode="after")
    def _check_auxiliary(self) -> Self:
        if self.auxiliary.enabled and not getattr(self.method_config(), "heads", False):
            raise ValueError(
                f"auxiliary: {self.method['name']} does not learn from the NLL of each token, which heads need; "
                "leave enable_… out"
            )
        if self.auxiliary.enable_memory and not self.model.memory_tokens:
            raise ValueError("auxiliary.enable_memory reconstructs from a memory; set model.memory_tokens too")
        if self.model.memory_tokens and self.method["name"] != "pretrain":
            raise ValueError(f"model.memory_tokens goes with method pretrain, and this is {self.method['name']}")
        self.auxiliary.refuse(self.model.block_size)
        return self

    def method_config(self) -> BaseModel:
        """The settings of the method, typed by it."""
        name, settings = self.method["name"], {k: v for k, v in self.method.items() if k != "name"}
        return load_method(name).Config.model_validate(settings)


def read_preset_file(name: str) -> dict[str, Any]:
    """The JSON of a preset by its name or by the path of a file. Raises PresetError when there is none such."""
    text = preset_text(name)
    if text is None and not Path(name).is_file():
        raise unknown_preset(name)
    try:
        preset = json.loads(Path(name).read_text(encoding="utf-8") if text is None else text)
    except (ValueError, OSError) as error:
        raise PresetError(f"{name}: not a preset in JSON ({error})") from None
    if not isinstance(preset, dict):
        raise PresetError(f"{name}: not a preset; a preset is a JSON object with sections such as data and train")
    return {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-._") or "run", **preset}


def resolve(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Preset:
    """A preset from its JSON and overrides `a.b=c`. Raises PresetError naming the key that is wrong.

    Of budgets, which exclude each other, the one that an override gives replaces the preset's.
    """
    raw: dict[str, Any] = translated(json.loads(json.dumps(values)))
    keys = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise PresetError(f"{override!r} is no override; write section.key=value, as in train.steps=500")
        _set(raw, key.strip(), text.strip())
        keys.add(key.strip())
    _keep_one_budget(raw, keys)
    try:
        return Preset.model_validate(raw)
    except ValidationError as error:
        raise PresetError(_explain(error, raw)) from None


def _keep_one_budget(raw: dict[str, Any], keys: set[str]) -> None:
    """Where one of the overridden `keys` is a budget, sets all others to null. Raises PresetError where several are."""
    train = raw.get("train")
    if not isinstance(train, dict):
        return
    given = [name for name in BUDGETS if {"train", f"train.{name}"} & keys and train.get(name) is not None]
    if len(given) > 1:
        listed = " and ".join(f"train.{name}={train[name]}" for name in given)
        raise PresetError(f"{listed} exclude each other; give one of them")
    if given:
        train |= {name: None for name in BUDGETS if name not in given}


def replaced_budget(values: Mapping[str, Any], preset: Preset) -> str | None:
    """The budget of a preset's JSON where the resolved preset has another one, as in `train.tokens=10000000`."""
    train = translated(values).get("train")
    train = train if isinstance(train, dict) else {}
    given = [name for name in BUDGETS if train.get(name) is not None]
    if not given or given == preset.train.budgets:
        return None
    return " and ".join(f"train.{name}={json.dumps(train[name])}" for name in given)


def _set(raw: dict[str, Any], key: str, text: str) -> None:
    """Sets a dotted key to a value typed by the schema: JSON where that fits the field, the bare text elsewhere."""
    fields = dict(_fields(raw))
    if key not in fields:
        raise PresetError(f"unknown key {key}{_nearest(key, fields)}")
    info = fields[key]
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]
    readings: list[Any] = [text]
    with suppress(ValueError):
        value = json.loads(text)
        readings = [value] if isinstance(value, (list, dict)) else [value, text]
    for value in readings:
        try:
            adapter.validate_python(value)
            break
        except ValidationError as error:
            reason = _reason(error.errors()[0])
    else:
        raise PresetError(f"{key}={text}: {reason}")
    *sections, last = key.split(".")
    for section in sections:
        if section == "method":
            raw[section] = _named(raw.get(section, {}))
        raw[section] = {} if raw.get(section) is None else raw[section]
        raw = raw[section]
        if not isinstance(raw, dict):
            raise PresetError(f"{section}: a section is a JSON object, and {raw!r} was given")
    raw[last] = value


def _fields(raw: Mapping[str, Any]) -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key a preset may have, with its field; those of `method` are the chosen method's."""
    for name, info in Preset.model_fields.items():
        yield name, info
        section = info.annotation
        if name == "method":
            chosen = _named(raw.get("method", "pretrain")).get("name")
            section = load_method(chosen).Config if chosen in METHODS else None
        elif name == "data":
            section = DATA.get(_data_type(raw.get("data", {})) or "")
        yield from _inside(name, section)


def _inside(name: str, annotation: Any) -> Iterator[tuple[str, FieldInfo]]:
    """The dotted keys below `name` where its settings are a class of their own, or such a class or null."""
    for section in (annotation, *get_args(annotation)):
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, field in section.model_fields.items():
                yield f"{name}.{key}", field
                yield from _inside(f"{name}.{key}", field.annotation)


def _explain(error: ValidationError, raw: Mapping[str, Any]) -> str:
    """The first problem of a preset in one line."""
    problem = error.errors()[0]
    place = problem["loc"]
    if place[:1] == ("data",) and place[1:2] and place[1] in DATA:
        place = (place[0], *place[2:])  # pydantic tells the type too, and a key does not
    key = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(key, dict(_fields(raw)))}"
    return f"{key}: {_reason(problem)}" if key else _reason(problem)


def _reason(problem: Any) -> str:
    message: str = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = problem["input"]
    shown = "" if isinstance(given, (dict, list, BaseModel)) or given is None else f", and {given!r} was given"
    return message + shown


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    """`; did you mean …?` with the nearest of the known words, or nothing when none is near."""
    in_other_sections = [key for key in known if key.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    near = nearest(word, in_other_sections, cutoff=0) or nearest(word, known, cutoff=0.7)
    return f"; {near}" if near else ""


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first key in which a preset asked for differs from a stored one, said as a clause, or None.

    What was left to the run to find, a vocabulary of null or a precision of `auto`, does not count.
    """
    found = {"model.vocab_size": None, **{f"train.{key}": "auto" for key in AUTO}}
    for key, value in asked.items():
        was, path = stored.get(key), f"{prefix}{key}"
        if isinstance(value, list) and isinstance(was, list) and path in ("data.sources", "data.custom_sources"):
            was, value = dict(enumerate(was)), dict(enumerate(value))  # of the hub, the run has found the commits
        if key == "revision" and value is None:
            continue
        if isinstance(value, dict) and isinstance(was, dict) and len(value) == len(was):
            nested = difference(was, value, f"{path}.")
            if nested:
                return nested
        elif value != was and not (path in found and value == found[path]) and path not in ("name", "description"):
            return f"{path} is {json.dumps(was)} there and {json.dumps(value)} here"
    return None
