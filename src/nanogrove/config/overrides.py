"""A preset from its JSON and overrides `section.key=value`, each typed by the field that it sets.

An unknown key or a value of the wrong type is refused with the key named.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from nanogrove.config.exclusions import BUDGET_KEYS, Replaced, drop_excluded
from nanogrove.config.hints import meant_key
from nanogrove.config.muzero_general_keys import translated
from nanogrove.config.preset import Preset, data_type, named
from nanogrove.config.problems import explain, nearest_key, refuse_unusable
from nanogrove.corpora import CORPORA
from nanogrove.errors import PresetError
from nanogrove.methods import METHODS, load_method
from nanogrove.settings import cut, reason, shown

METHOD_SECTION = Annotated[dict[str, Any], BeforeValidator(named)]
DEFAULT_METHOD = "pretrain"  # of a preset without a `method` section
CHOICES: dict[str, tuple[str, Collection[str]]] = {  # keys that choose what a section is, with the names there are
    "method.name": ("method", METHODS),
    "data.type": ("data", CORPORA),
}


def resolve(values: Mapping[str, object], overrides: Sequence[str] = ()) -> Preset:
    """A preset from its JSON and overrides `a.b=c`. Raises PresetError naming the key that is wrong.

    Settings that exclude each other, such as budgets, are replaced by the one that an override gives.
    """
    raw, _ = _overridden(values, overrides)
    try:
        return Preset.model_validate(raw)
    except ValidationError as error:
        raise PresetError(explain(error, raw, (key for key, _ in _fields(raw)))) from None


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    """Overrides from values by dotted key, numbers of numpy among them. Raises PresetError for what is no JSON.

    >>> as_overrides({"train.steps": 500, "model.bias": False})
    ['train.steps=500', 'model.bias=false']
    """
    overrides = []
    for key, value in settings.items():
        plain = value.item() if isinstance(value, np.generic) else value
        try:
            overrides.append(f"{key}={json.dumps(plain)}")
        except (TypeError, ValueError):
            raise PresetError(
                f"{key}: a setting is a number, a text, a list or a dict of these, not {cut(repr(value))}"
            ) from None
    return overrides


def replaced(values: Mapping[str, object], overrides: Sequence[str]) -> list[Replaced]:
    """The settings of a preset's JSON that do not apply, since overrides give what excludes them."""
    return _overridden(values, overrides)[1]


def _overridden(values: Mapping[str, object], overrides: Sequence[str]) -> tuple[dict[str, Any], list[Replaced]]:
    """A preset's JSON with overrides applied, and what they replaced; the method and the type of data come first."""
    raw = translated(_copied(values))
    pairs = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip(" ."):
            raise PresetError(f"{override!r} is not an override; write section.key=value, as in train.steps=500")
        pairs.append((key.strip(), text.strip()))
    keys = set()
    for key, text in sorted(pairs, key=lambda pair: pair[0] not in ("method", *CHOICES)):
        if key in CHOICES:
            keys |= _choose(raw, key, text)
        else:
            _set(raw, key, text)
            keys.add(key)
    train = raw["train"] if isinstance(raw.get("train"), dict) else {}
    given = [key for key in BUDGET_KEYS if {key, "train"} & keys and train.get(key.removeprefix("train.")) is not None]
    if len(given) > 1:
        listed = " and ".join(f"{key}={train[key.removeprefix('train.')]}" for key in given)
        raise PresetError(f"{listed} exclude each other; give one of them")
    return raw, list(drop_excluded(raw, keys))


def _choose(raw: dict[str, Any], key: str, text: str) -> set[str]:
    """Chooses a method or a type of data by its name, with its defaults where the preset has another.

    Returns the section that was replaced, if it was. Raises PresetError for a name that none has.
    """
    section, names = CHOICES[key]
    name = text.strip('"')
    if name not in names:
        raise PresetError(f"{key}={cut(text)}: must be one of {', '.join(names)}{nearest_key(name, names)}")
    if name == (_method_of(raw) if section == "method" else data_type(raw.get("data", {}))):
        return set()
    raw[section] = {key.removeprefix(f"{section}."): name}
    return {section}


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


def _set(raw: dict[str, Any], key: str, text: str) -> None:
    """Sets a dotted key to a value typed by the schema: JSON where that fits the field, the bare text elsewhere."""
    fields = dict(_fields(raw))
    if key not in fields:
        raise PresetError(f"unknown key {key}{meant_key(key, fields)}")
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

    A `method` may be incomplete, as further overrides add to it.
    """
    for name, info in Preset.model_fields.items():
        yield name, FieldInfo.from_annotation(METHOD_SECTION) if name == "method" else info
        section: object = info.annotation
        if name == "method":
            chosen = _method_of(raw)
            section = load_method(chosen).Config if isinstance(chosen, str) and chosen in METHODS else None
        elif name == "data":
            kind = data_type(raw.get("data", {}))
            section = CORPORA[kind].Config if kind in CORPORA else None
        yield from ((key, field) for key, field in _inside(name, section) if key not in CHOICES)


def _method_of(raw: Mapping[str, object]) -> object:
    """What the JSON of a preset gives as the name of its method."""
    method = raw.get("method", DEFAULT_METHOD)
    return method.get("name") if isinstance(method, Mapping) else method


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
