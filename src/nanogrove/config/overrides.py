"""A preset from its JSON and overrides `section.key=value`, each typed by the field that it sets.

An unknown key or a value of the wrong type is refused with the key named.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from nanogrove.config.muzero_general_keys import translated
from nanogrove.config.preset import Preset, data_type, named
from nanogrove.config.problems import explain, nearest_key, refuse_unusable
from nanogrove.corpora import CORPORA
from nanogrove.errors import PresetError
from nanogrove.methods import METHODS, load_method
from nanogrove.settings import cut, reason, shown
from nanogrove.train.loop import BUDGETS

METHOD_SECTION = Annotated[dict[str, Any], BeforeValidator(named)]
DEFAULT_METHOD = "pretrain"  # of a preset without a `method` section


def resolve(values: Mapping[str, object], overrides: Sequence[str] = ()) -> Preset:
    """A preset from its JSON and overrides `a.b=c`. Raises PresetError naming the key that is wrong.

    Budgets exclude each other; one that an override gives replaces that of the preset.
    """
    raw = translated(_copied(values))
    overridden = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise PresetError(f"{override!r} is not an override; write section.key=value, as in train.steps=500")
        _set(raw, key.strip(), text.strip())
        overridden.add(key.strip())
    _keep_one_budget(raw, overridden)
    try:
        return Preset.model_validate(raw)
    except ValidationError as error:
        raise PresetError(explain(error, raw, (key for key, _ in _fields(raw)))) from None


def _copied(values: Mapping[str, object]) -> dict[str, Any]:
    """A copy of a preset's JSON. Raises PresetError for what no setting can be."""
    try:
        refuse_unusable(values)
        copy: dict[str, Any] = json.loads(json.dumps(values))
    except (TypeError, ValueError) as error:
        raise PresetError(f"a preset is JSON, and this one is not ({error})") from None
    if not isinstance(copy, dict):
        raise PresetError(f"a preset is an object with sections such as data and train, and {shown(copy)} was given")
    return copy


def replaced_budget(values: Mapping[str, object], preset: Preset) -> str | None:
    """The budget of a preset's JSON where the resolved preset has another one, as in `train.tokens=10000000`."""
    train = translated(values).get("train")
    train = train if isinstance(train, dict) else {}
    given = [name for name in BUDGETS if train.get(name) is not None]
    if not given or given == preset.train.budgets:
        return None
    return " and ".join(f"train.{name}={json.dumps(train[name])}" for name in given)


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


def _set(raw: dict[str, Any], key: str, text: str) -> None:
    """Sets a dotted key to a value typed by the schema: JSON where that fits the field, the bare text elsewhere."""
    fields = dict(_fields(raw))
    if key not in fields:
        raise PresetError(f"unknown key {key}{nearest_key(key, fields)}")
    info = fields[key]
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]
    readings: list[Any] = [text]
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        readings = [value] if isinstance(value, (list, dict)) else [value, text]
    for value in readings:
        try:
            adapter.validate_python(value)
            break
        except ValidationError as error:
            refusal = reason(error.errors())
    else:
        raise PresetError(f"{key}={cut(text)}: {refusal}")
    refuse_unusable(value, (key,))
    *sections, last = key.split(".")
    for section in sections:
        if section == "method":
            raw[section] = named(raw.get(section, DEFAULT_METHOD))
        raw[section] = {} if raw.get(section) is None else raw[section]
        raw = raw[section]
        if not isinstance(raw, dict):
            raise PresetError(f"{section}: a section is a JSON object, and {shown(raw)} was given")
    raw[last] = value


def _fields(raw: Mapping[str, object]) -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key a preset may have, with its field; those of `method` and `data` are the chosen ones'.

    A `method` may be incomplete, as further overrides add to it, and its name is chosen by `method` alone.
    """
    for name, info in Preset.model_fields.items():
        yield name, FieldInfo.from_annotation(METHOD_SECTION) if name == "method" else info
        section: object = info.annotation
        if name == "method":
            chosen = raw.get("method", DEFAULT_METHOD)
            chosen = chosen.get("name") if isinstance(chosen, Mapping) else chosen
            section = load_method(chosen).Config if isinstance(chosen, str) and chosen in METHODS else None
        elif name == "data":
            kind = data_type(raw.get("data", {}))
            section = CORPORA[kind].Config if kind in CORPORA else None
        yield from ((key, field) for key, field in _inside(name, section) if key != "method.name")


def _inside(name: str, annotation: object) -> Iterator[tuple[str, FieldInfo]]:
    """The dotted keys below `name` where its settings are a class of their own, or such a class or null.

    A list or mapping of such classes has no keys that a preset could name before its elements.
    """
    union = get_origin(annotation) in (Union, UnionType)
    for section in get_args(annotation) if union else (annotation,):
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, field in section.model_fields.items():
                yield f"{name}.{key}", field
                yield from _inside(f"{name}.{key}", field.annotation)
