"""Every setting a preset may have, read from the classes that define them: type, default, limits and meaning."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from nanogrove.config.preset import Preset
from nanogrove.config.problems import nearest_key
from nanogrove.corpora import CORPORA
from nanogrove.data.sources.kinds import KINDS
from nanogrove.errors import PresetError
from nanogrove.methods import METHODS, load_method
from nanogrove.train.optim.names import NameIn

WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "null",
    Any: "anything",
}
SECTIONS = {
    "method": "how the model is made better; a name alone takes its defaults",
    "data": "what the model is trained on; each type has its own settings",
}
SIGNS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


@dataclass(frozen=True)
class Values:
    """What a setting takes, for a form that asks for it.

    Args:
        kind: `json` where it may be of several types, or is a list or an object
        null: whether null is one of them
        choices: all that it takes, of a choice
        least: the lower limit of a number, which itself may be excluded; None where there is none
        most: the upper limit
    """

    kind: Literal["choice", "whole number", "number", "text", "json"]
    null: bool = False
    choices: tuple[object, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Setting:
    """A key of a preset.

    Args:
        key: dotted, as an override names it; `data.sources[]` is any element of that list
        of: the method, data type or source type that has this setting; None where every preset has it
        type: what values it takes, in words
        required: whether a preset must give it
        default: JSON; None where it is required, or is a section
        description: what it means, with the unit
        values: what values it takes
    """

    key: str
    of: str | None
    type: str
    required: bool
    default: object
    description: str
    values: Values


def all_settings() -> list[Setting]:
    """The settings of every section, method, type of data and type of source, in the order of the preset."""
    return list(_settings())


def find_settings(key: str) -> list[Setting]:
    """The settings of this key, or of the section of this name. Raises PresetError, with the nearest, for neither."""
    settings = all_settings()
    prefix = key.replace("[]", "") + "."
    chosen = [setting for setting in settings if f"{setting.key}.".replace("[]", "").startswith(prefix)]
    if not chosen:
        hint = (
            nearest_key(key, dict.fromkeys(setting.key for setting in settings)) or "; `nanogrove settings` lists all"
        )
        raise PresetError(f"no setting is called {key!r}{hint}")
    return chosen


def _settings() -> Iterator[Setting]:
    methods = {name: load_method(name).Config for name in METHODS}
    for name, field in Preset.model_fields.items():
        if name == "method":
            yield from _section(name, field, methods)
        elif name == "data":
            yield from _section(name, field, {name: kind.Config for name, kind in CORPORA.items()})
            for kind in KINDS.values():
                yield from _inside("data.sources[]", kind.settings, kind.name)
        else:
            yield _setting(name, field, None)
            yield from _nested(name, field.annotation, None)


def _section(name: str, field: FieldInfo, choices: Mapping[str, type[BaseModel]]) -> Iterator[Setting]:
    """A section whose settings depend on which of several classes it is."""
    default = None if field.is_required() else _as_json(field.get_default())
    words, values = f"one of {', '.join(choices)}", Values("json")
    yield Setting(name, None, words, field.is_required(), default, SECTIONS[name], values)
    for choice, model in choices.items():
        yield from _inside(name, model, choice)


def _inside(prefix: str, model: type[BaseModel], of: str | None) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        yield _setting(f"{prefix}.{name}", field, of)
        yield from _nested(f"{prefix}.{name}", field.annotation, of)


def _nested(key: str, annotation: object, of: str | None) -> Iterator[Setting]:
    """The settings of the classes of settings within a type; those in a list or a mapping are of each element."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _inside(key, annotation, of)
    origin = get_origin(annotation)
    each = key if origin in (Union, UnionType, Annotated) else f"{key}[]"
    for argument in get_args(annotation) if origin is not Literal else ():
        yield from _nested(each, argument, of)


def _setting(key: str, field: FieldInfo, of: str | None) -> Setting:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    section = isinstance(default, BaseModel)
    limits = _limits(field.metadata)
    tables = [part.table for part in field.metadata if isinstance(part, NameIn)]
    words = f"one of {', '.join(tables[0])}" if tables else "a section" if section else _words(field.annotation)
    return Setting(
        key,
        of,
        f"{words}, {limits}" if limits else words,
        field.is_required(),
        None if section else _as_json(default),
        field.description or _summary(field.annotation),
        Values("choice", choices=tuple(tables[0])) if tables else _values(field.annotation, field.metadata),
    )


def _as_json(value: object) -> object:
    as_json: object = TypeAdapter(object).dump_python(value, mode="json")
    return as_json


def _summary(annotation: object) -> str:
    """The first line of the docstring of a class of settings, or what a type of one value is for; else empty."""
    if get_origin(annotation) is Literal and len(get_args(annotation)) == 1:
        return "which kind of section this is"
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return (part.__doc__ or "").partition("\n")[0]
    return ""


def _words(annotation: object) -> str:
    """A type in words, as `a whole number ≥ 1 or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _limits([part for each in arguments[1:] for part in getattr(each, "metadata", [each])])
        return " ".join(filter(None, [_words(arguments[0]), limits]))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments)) if len(arguments) > 1 else str(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_words, arguments))
    if origin in (list, set):
        return f"a list, each {_words(arguments[0])}"
    if origin is tuple:
        return "a list: " + ", ".join(map(_words, arguments))
    if origin is dict:
        return f"an object, each value {_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    return WORDS.get(annotation, "an object")


def _values(annotation: object, metadata: Sequence[object]) -> Values:
    """What a type takes, within the limits in its metadata."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for each in arguments[1:] for part in getattr(each, "metadata", [each])]
        return _values(arguments[0], [*metadata, *inner])
    if origin in (Union, UnionType):
        types = [each for each in arguments if each is not NoneType]
        values = _values(types[0], metadata) if len(types) == 1 else Values("json")
        return replace(values, null=len(types) < len(arguments))
    if origin is Literal or annotation is bool:
        return Values("choice", choices=arguments or (True, False))
    if annotation in (int, float):
        limits = {name: getattr(part, name) for part in metadata for kind, name, _ in SIGNS if type(part) is kind}
        least, most = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
        return Values("whole number" if annotation is int else "number", least=least, most=most)
    return Values("text" if annotation is str else "json", null=annotation is Any)


def _limits(metadata: list[object]) -> str:
    """Limits of numbers and texts, as `≥ 1, < 8`."""
    limits = [f"{sign} {getattr(part, name)}" for part in metadata for kind, name, sign in SIGNS if type(part) is kind]
    limits += [f"{part.min_length} or more long" for part in metadata if isinstance(part, MinLen)]
    return ", ".join(limits)
