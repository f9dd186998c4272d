"""The settings of a preset as fields of a form, made from the schema that `nanogrove settings` prints."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.config.settings import Setting, all_settings
from nanogrove.errors import PresetError
from nanogrove.record.events import Values
from nanogrove.reports.values import escaped
from nanogrove.ui.frame import alert

FIXED = ("name", "method", "method.name", "data", "data.type")  # what the preset chooses, and not the form
LONG_CHARACTERS = 60  # of a text, above which its field has several lines


@cache
def _schema() -> tuple[Setting, ...]:
    return tuple(all_settings())


def settings_of(preset: Preset) -> list[Setting]:
    """The settings that a form asks for: those of the preset's method and type of data, less sections and elements of
    lists.
    """
    owners = {"method": preset.method.name, "data": preset.data.type}
    chosen = [each for each in _schema() if each.of in (None, owners.get(_section(each)))]
    sections = {each.key.rpartition(".")[0] for each in chosen}
    return [each for each in chosen if each.key not in (*FIXED, *sections) and "[]" not in each.key]


def _section(setting: Setting) -> str:
    """The section of a setting; empty for those of the run as a whole."""
    return setting.key.partition(".")[0] if "." in setting.key else ""


def texts_of(preset: Preset, settings: Sequence[Setting]) -> dict[str, str]:
    """The text in the field of each setting of a preset, by key."""
    values = preset.model_dump(mode="json")
    return {each.key: _text(_at(values, each), each) for each in settings}


def _at(values: Values, setting: Setting) -> object:
    """The value of a setting; the default of one in a section that is null."""
    value: object = values
    for part in setting.key.split("."):
        if not isinstance(value, dict) or part not in value:
            return setting.default
        value = value[part]
    return value


def _text(value: object, setting: Setting) -> str:
    """A value as an override has it: a text as it is, where it cannot be read as another value; empty for null."""
    if value is None:
        return "null" if setting.values.kind == "choice" else ""
    if isinstance(value, str) and setting.values.kind in ("text", "choice"):
        return value
    return _bare(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _bare(value: str) -> str:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return value
    return json.dumps(value, ensure_ascii=False)


def typed_overrides(form: Mapping[str, str], texts: Mapping[str, str], settings: Sequence[Setting]) -> dict[str, str]:
    """The overrides of the fields whose text is another than the preset's, by key."""
    overrides = dict[str, str]()
    for each in settings:
        typed = form.get(each.key, texts[each.key]).replace("\r\n", "\n")
        if typed != texts[each.key]:
            overrides[each.key] = f"{each.key}={typed or ('null' if each.values.null else '')}"
    return overrides


def resolve_form(values: Values, overrides: Mapping[str, str]) -> tuple[Preset | None, dict[str, str]]:
    """The preset with overrides, or None and what is wrong by key: of the preset as a whole by the empty one."""
    problems, left = dict[str, str](), dict(overrides)
    while True:
        try:
            preset = resolve(values, list(left.values()))
        except PresetError as error:
            key = key_of_problem(str(error), left)
            problems[key] = str(error)
            if not key:
                return None, problems
            del left[key]
        else:
            return (None if problems else preset), problems


def key_of_problem(problem: str, keys: Mapping[str, object]) -> str:
    """The key that a message of the command line is about, where it is one of `keys`; else empty.

    A message begins with its key, or with a section and names settings of it, as in `model: n_embd 16 is …`.
    """
    match = re.match(r"[\w.]+", problem)
    first = match[0].rstrip(".") if match else ""
    if first in keys:
        return first
    words = re.findall(r"\w+", problem)
    return next((key for key in keys if key.startswith(f"{first}.") and key.rpartition(".")[2] in words), "")


def fieldsets(
    settings: Sequence[Setting], typed: Mapping[str, str], texts: Mapping[str, str], problems: Mapping[str, str]
) -> str:
    """The fields, a group for each section, which is open where something in it is wrong or was changed.

    Args:
        settings: what is asked for.
        typed: the text in each field, by key.
        texts: the texts of the preset.
        problems: what is wrong, by key.
    """
    groups = list[str]()
    for name, members in groupby(settings, _section):
        each = list(members)
        changed = any(one.key in problems or typed[one.key] != texts[one.key] for one in each)
        rows = "".join(_row(one, typed[one.key], problems.get(one.key, "")) for one in each)
        groups.append(
            f"<details{' open' if changed else ''}><summary>{escaped(name or 'the run')} "
            f"<small>{len(each)} settings</small></summary>{rows}</details>"
        )
    return "".join(groups)


def _row(setting: Setting, typed: str, problem: str) -> str:
    """A setting: its name, its meaning, its field, and what is wrong with the value."""
    key = setting.key
    default = f"; default {json.dumps(setting.default, ensure_ascii=False)}" if not setting.required else ""
    meaning = ": ".join(filter(None, (setting.description, f"{setting.type}{default}")))
    invalid = ' aria-invalid="true"' if problem else ""
    shared = f'id="{key}" name="{key}" aria-describedby="{key}-meaning"{invalid}'
    return (
        f'<div class="setting"><label for="{key}">{key}</label>{_input(setting, shared, typed)}'
        f'<small id="{key}-meaning">{escaped(meaning)}</small>{alert(problem)}</div>'
    )


def _input(setting: Setting, shared: str, typed: str) -> str:
    values = setting.values
    if values.kind == "choice":
        choices = [_json_word(each) for each in values.choices] + (["null"] if values.null else [])
        return f"<select {shared}>{''.join(_options(choices, typed))}</select>"
    if values.kind in ("whole number", "number") and _is_number(typed):
        limits = {"min": values.least, "max": values.most, "step": 1 if values.kind == "whole number" else "any"}
        given = "".join(f' {name}="{limit}"' for name, limit in limits.items() if limit is not None)
        return f'<input type="number" {shared}{given} value="{escaped(typed)}">'
    if len(typed) > LONG_CHARACTERS or "\n" in typed:
        return f'<textarea rows="3" {shared} spellcheck="false">\n{escaped(typed)}</textarea>'
    return f'<input {shared} value="{escaped(typed)}" spellcheck="false">'


def _options(choices: Sequence[str], typed: str) -> Iterator[str]:
    for each in dict.fromkeys([*choices, typed]):
        yield f"<option{' selected' if each == typed else ''}>{escaped(each)}</option>"


def _json_word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_number(typed: str) -> bool:
    """Whether a field for numbers can hold a text, which it loses otherwise."""
    return re.fullmatch(r"|-?\d+(\.\d+)?([eE][-+]?\d+)?", typed) is not None
