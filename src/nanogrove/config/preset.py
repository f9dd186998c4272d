"""Presets: one JSON file says everything about a run, and each of its keys can be overridden as `section.key=value`.

Sections are the settings classes that stand beside what they configure. An unknown key or a value of the wrong type
is refused with the key named and, where one is near, the key that was meant.
"""

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema
from pydantic_core.core_schema import tagged_union_schema

from nanogrove.config.muzero_general_keys import translated
from nanogrove.corpora import CORPORA
from nanogrove.data.corpus import CorpusConfig
from nanogrove.decoding.loop import Sampling
from nanogrove.errors import PresetError
from nanogrove.json_difference import differences
from nanogrove.methods import METHODS, load_method
from nanogrove.methods.contract import MethodConfig
from nanogrove.model.gpt import ModelConfig
from nanogrove.model.heads import AuxiliaryConfig
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
    top_p: float | None = Field(0.95, gt=0, le=1)


class SaveConfig(BaseModel):
    """When to save."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(250, ge=1, description="steps")
    snapshots: bool = Field(False, description="also keep step-1, step-2, step-4, step-8, …")


class TrackConfig(BaseModel):
    """Where else events go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trackers: list[Literal["wandb", "tensorboard", "trackio"]] = []
    project: str = "nanogrove"
    name: str | None = Field(None, description="of the run there; the run folder's when left out")


def data_type(value: object) -> str | None:
    """The type of a `data` section, or of its settings; text where it names none."""
    kind = value.get("type", "text") if isinstance(value, Mapping) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


def _method_name(value: Mapping[str, str] | MethodConfig) -> str:
    return value.name if isinstance(value, MethodConfig) else value["name"]


def named(value: object) -> object:
    """A `method` section that is the name of a method alone, as the section that holds the name."""
    return {"name": value} if isinstance(value, str) else value


def _known(value: object) -> object:
    """A `method` section that names a method. Raises ValueError for any other."""
    value = named(value)
    if isinstance(value, MethodConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("Input should be a valid dictionary")
    name = value.get("name")
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"no method is called {name!r}{_nearest(str(name), METHODS)}")
    return value


def _union(
    configs: Mapping[str, type[BaseModel]], name_of: Callable[[Any], str | None], refusal: str
) -> GetPydanticSchema:
    """Settings of one of several classes, of which `name_of` finds the name in a section; else `refusal`."""

    def schema(_: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return tagged_union_schema(
            {name: handler.generate_schema(config) for name, config in configs.items()},
            name_of,
            custom_error_type="unknown_name",
            custom_error_message=refusal,
        )

    return GetPydanticSchema(schema)


DATA = _union(
    {name: kind.Config for name, kind in CORPORA.items()},
    data_type,
    f"data is a JSON object whose type is one of {', '.join(CORPORA)}",
)
METHOD = _union(
    {name: load_method(name).Config for name in METHODS}, _method_name, f"method is one of {', '.join(METHODS)}"
)


class Preset(BaseModel):
    """Everything needed to run, and to run again."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    seed: int = Field(0, ge=0, lt=1 << 63)
    method: Annotated[MethodConfig, METHOD, BeforeValidator(_known)] = Field(
        {"name": "pretrain"}, validate_default=True
    )
    data: Annotated[CorpusConfig, DATA]
    model: ModelConfig = ModelConfig()
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    train: TrainConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sample: SampleConfig = SampleConfig()
    save: SaveConfig = SaveConfig()
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        name, method, given = self.method.name, load_method(self.method.name), self.train.budgets
        counts = " and ".join(f"method.{setting}" for setting in method.counted_by)
        listed = " and ".join(given) + (" is set" if len(given) == 1 else " are set") if given else "no budget is set"
        if not method.needs_budget:
            if given:
                raise ValueError(f"train: {listed}, and method {name} counts its own steps; leave it out, set {counts}")
            return self
        if len(given) != 1:
            raise ValueError(f"train: {listed}; {'keep' if given else 'set'} one of steps, tokens, epochs and minutes")
        if self.train.minutes is not None and method.num_steps(self.method, 1) == method.num_steps(self.method, 0):
            raise ValueError(
                f"train.minutes: with method.base, method {name} counts its own steps; set {counts}, and "
                "train.steps=1 in place of minutes"
            )
        return self

    @model_validator(mode="after")
    def _check_auxiliary(self) -> Self:
        method = load_method(self.method.name)
        if self.auxiliary.enabled and not method.trains_heads(self.method):
            raise ValueError(
                f"auxiliary: {self.method.name} does not learn from the NLL of each token, which heads need; "
                "leave enable_… out"
            )
        if self.auxiliary.enable_memory and not self.model.memory_tokens:
            raise ValueError("auxiliary.enable_memory reconstructs from a memory; set model.memory_tokens too")
        if self.model.memory_tokens and not method.memory:
            able = " or ".join(name for name in METHODS if load_method(name).memory)
            raise ValueError(f"model.memory_tokens goes with method {able}, and this is {self.method.name}")
        self.auxiliary.refuse(self.model.block_size)
        return self


def read_preset_file(name: str) -> dict[str, Any]:
    """The JSON of a preset by its name or by the path of a file. Raises PresetError when there is none such."""
    packaged = resources.files("nanogrove") / "presets" / f"{name}.json"
    path = packaged if packaged.is_file() else Path(name)
    if not path.is_file():
        hint = _nearest(name, list_presets()) or "; `nanogrove presets` lists them, and a file ends in .json"
        raise PresetError(f"no preset is called {name!r}{hint}")
    try:
        preset = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PresetError(f"{name}: not a preset in JSON ({error})") from None
    if not isinstance(preset, dict):
        raise PresetError(f"{name}: not a preset; a preset is a JSON object with sections such as data and train")
    return {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-._") or "run", **preset}


def list_presets() -> dict[str, str]:
    """Names and descriptions of the presets that come with nanogrove."""
    folder = resources.files("nanogrove") / "presets"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return {f.name.removesuffix(".json"): json.loads(f.read_text())["description"] for f in files}


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


METHOD_SECTION = Annotated[dict[str, Any], BeforeValidator(named)]


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
            raw[section] = named(raw.get(section, {}))
        raw[section] = {} if raw.get(section) is None else raw[section]
        raw = raw[section]
        if not isinstance(raw, dict):
            raise PresetError(f"{section}: a section is a JSON object, and {raw!r} was given")
    raw[last] = value


def _fields(raw: Mapping[str, Any]) -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key a preset may have, with its field; those of `method` and `data` are the chosen ones'.

    A `method` may be incomplete, as further overrides add to it, and its name is chosen by `method` alone.
    """
    for name, info in Preset.model_fields.items():
        yield name, FieldInfo.from_annotation(METHOD_SECTION) if name == "method" else info
        section: Any = info.annotation
        if name == "method":
            chosen = raw.get("method", "pretrain")
            chosen = chosen.get("name") if isinstance(chosen, Mapping) else chosen
            section = load_method(chosen).Config if chosen in METHODS else None
        elif name == "data":
            kind = data_type(raw.get("data", {}))
            section = CORPORA[kind].Config if kind in CORPORA else None
        yield from ((key, field) for key, field in _inside(name, section) if key != "method.name")


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
    tables: dict[int | str, Collection[int | str]] = {"data": CORPORA, "method": METHODS}
    if len(place) > 1 and place[1] in tables.get(place[0], ()):
        place = (place[0], *place[2:])  # pydantic gives the name of the union's member too, and a key does not
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
    near = difflib.get_close_matches(word, in_other_sections, 1, 0) or difflib.get_close_matches(word, known, 1, 0.7)
    return f"; did you mean {near[0]}?" if near else ""


def difference(stored: Mapping[str, object], asked: Mapping[str, object]) -> str | None:
    """The first key in which a preset asked for differs from a stored one, said as a clause, or None.

    What was left to the run to find, a vocabulary of null, a precision of `auto`, the commit of a source of the hub,
    does not count; nor do name and description.
    """
    left_open: dict[str, object] = {"model.vocab_size": None, **{f"train.{key}": "auto" for key in AUTO}}
    for path, was, now in differences(dict(stored), dict(asked)):
        commit = path.endswith(".revision") and now is None
        resolved = path in left_open and now == left_open[path]
        if not commit and not resolved and path not in ("name", "description"):
            return f"{path} is {json.dumps(was)} there and {json.dumps(now)} here"
    return None
