"""Any key takes any value that its field allows, and nothing else changes; any other key is refused in a line."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from nanogrove.config.catalog import list_presets, read_preset_file
from nanogrove.config.overrides import _fields, resolve
from nanogrove.corpora import CORPORA
from nanogrove.errors import PresetError
from nanogrove.methods import METHODS
from nanogrove.train.loop import BUDGETS

LAWS = settings(derandomize=True, database=None, deadline=None, max_examples=30)
Values = dict[str, Any]

PRESETS = [read_preset_file(name) for name in list_presets()]
RESOLVED = [resolve(values).model_dump(mode="json") for values in PRESETS]


def fields_of(values: Values) -> dict[str, FieldInfo]:
    """Every key of a preset of this method and of this kind of data."""
    return dict(_fields(values))


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what is no object."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def at(values: Values, key: str) -> Any:
    """The value of a dotted key; None within a section that is null, or is given in another form."""
    found: Any = values
    for part in key.split("."):
        found = found[part] if isinstance(found, Mapping) else None
    return found


def test_presets_reach_every_method_and_every_kind_of_data() -> None:
    assert {values["method"]["name"] for values in RESOLVED} == METHODS.keys()
    reached = {values["data"].get("type", "text") for values in RESOLVED}
    assert reached == CORPORA.keys() - {"chat"}, "conversations are of a file that whoever trains brings"


@pytest.mark.parametrize("resolved", RESOLVED, ids=[values["name"] for values in RESOLVED])
def test_a_preset_returns_from_json_and_each_key_set_to_what_it_is_changes_nothing(resolved: Values) -> None:
    preset = resolve(resolved)
    assert preset.model_dump(mode="json") == resolved
    assert resolve(json.loads(preset.model_dump_json())) == preset
    overrides = [f"{key}={json.dumps(at(resolved, key))}" for key in fields_of(resolved) if "." in key]
    given = [override for override in overrides if not override.endswith("=null")]
    assert len(given) > 50
    assert resolve(resolved, given).model_dump(mode="json") == resolved


def of_schema(schema: Any, definitions: Any) -> st.SearchStrategy[Any]:
    """JSON that a schema allows, as far as it says; a validator may refuse more."""
    if schema is True or not schema:
        return st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5))
    if "$ref" in schema:
        return of_schema(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema or "oneOf" in schema:
        return st.one_of([of_schema(part, definitions) for part in schema.get("anyOf", schema.get("oneOf"))])
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    match schema.get("type"):
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "integer":
            return st.integers(low, (low or 0) + 64 if high is None else high)
        case "number":
            above, below = "exclusiveMinimum" in schema, "exclusiveMaximum" in schema
            return st.floats(low, 1e6 if high is None else high, exclude_min=above, exclude_max=below)
        case "string":
            return st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else st.text(max_size=12)
        case "array" if "prefixItems" in schema:
            return st.tuples(*[of_schema(part, definitions) for part in schema["prefixItems"]]).map(list)
        case "array":
            return st.lists(of_schema(schema["items"], definitions), max_size=3)
        case "object" if "properties" in schema:
            parts = {name: of_schema(part, definitions) for name, part in schema["properties"].items()}
            needed = schema.get("required", [])
            optional = {name: part for name, part in parts.items() if name not in needed}
            return st.fixed_dictionaries({name: parts[name] for name in needed}, optional=optional)
        case "object":
            names = of_schema(schema.get("propertyNames", {"type": "string"}), definitions)
            return st.dictionaries(names, of_schema(schema["additionalProperties"], definitions), max_size=2)
    raise AssertionError(schema)


def holds(found: Any, given: Any) -> bool:
    """Whether a value is the one given, with defaults where an object leaves them out."""
    if isinstance(given, dict) and isinstance(found, dict):
        return all(name in found and holds(found[name], value) for name, value in given.items())
    if isinstance(given, list) and isinstance(found, list):
        return len(found) == len(given) and all(map(holds, found, given))
    return (type(found) is type(given) and found == given) or (type(found) is float and found == given)


TRANSFORMED = {"data.sources", "data.custom_sources"}  # a short name becomes the settings that it stands for


def keys_with_presets() -> dict[tuple[str, str], Values]:
    """Each key of each method and kind of data once, with a preset that has it."""
    found: dict[tuple[str, str], Values] = {}
    for values in RESOLVED:
        kinds = {"method": values["method"]["name"], "data": values["data"].get("type", "text")}
        for key in sorted(fields_of(values).keys() - TRANSFORMED):
            if "." in key:
                found.setdefault((key, kinds.get(key.partition(".")[0], "")), values)
    return found


def try_key(base: Values, key: str, value: object) -> bool:
    """Sets a key and checks that it has this value, and no other key another; whether that was accepted."""
    try:
        changed = resolve(base, [f"{key}={json.dumps(value)}"]).model_dump(mode="json")
    except PresetError as error:  # settings that do not go together, or what a schema cannot say
        refusal = str(error)
    else:
        assert holds(at(changed, key), value), (key, value)
        was, now = dict(leaves(base)), dict(leaves(changed))
        ours = {name for name in was.keys() | now.keys() if name == key or name.startswith(f"{key}.")}
        section = key.rpartition(".")[0]
        if not isinstance(at(base, section), Mapping):  # a section that was null has its defaults now
            ours |= {name for name in now if name.startswith(f"{section}.")} | {section}
        if key.removeprefix("train.") in BUDGETS and value is not None:
            ours |= {f"train.{name}" for name in BUDGETS}
            assert all(now[f"train.{name}"] is None for name in BUDGETS if f"train.{name}" != key)
        others = (was.keys() | now.keys()) - ours
        assert {name: now.get(name) for name in others} == {name: was.get(name) for name in others}
        return True
    assert len(refusal.splitlines()) == 1, refusal
    return False


def takes_values(base: Values, key: str) -> bool:
    """Tries values that the schema of a key allows; whether one of them was accepted."""
    info = fields_of(base)[key]
    schema = TypeAdapter(Annotated[info.annotation, info]).json_schema()  # type: ignore[arg-type]
    outcomes: list[bool] = []

    @settings(LAWS, max_examples=4)
    @given(value=of_schema(schema, schema.get("$defs", {})))
    def law(value: object) -> None:
        outcomes.append(try_key(base, key, value))

    law()
    return any(outcomes)


def test_a_key_takes_exactly_the_value_that_is_given_and_nothing_else_changes() -> None:
    """Every key; those that take no value alone, as they need another setting too, are few."""
    pairs = keys_with_presets()
    refused = [pair for pair, base in pairs.items() if not takes_values(base, pair[0])]
    assert len(pairs) > 200
    assert len(refused) < 0.1 * len(pairs), refused


@LAWS
@given(text=st.text(st.characters(exclude_categories=["Cs"])), key=st.sampled_from(["description", "track.name"]))
def test_a_text_is_taken_as_it_is_bare_or_as_json(text: str, key: str) -> None:
    base = RESOLVED[0]
    assert at(resolve(base, [f"{key}={json.dumps(text)}"]).model_dump(mode="json"), key) == text
    bare = text.strip()
    assume(not re.fullmatch(r"null|\".*\"", bare, re.DOTALL))
    assert at(resolve(base, [f"{key}={text}"]).model_dump(mode="json"), key) == bare


@LAWS
@given(data=st.data(), base=st.sampled_from(RESOLVED))
def test_a_key_with_a_slip_is_refused_in_a_line_that_names_the_nearest(data: st.DataObject, base: Values) -> None:
    known = list(fields_of(base))
    meant = data.draw(st.sampled_from([key for key in known if len(key) > 6]))
    place = data.draw(st.integers(0, len(meant) - 1))
    letter = data.draw(st.sampled_from("abcxyz_."))
    slip = data.draw(st.sampled_from([meant[:place], meant[:place] + letter, meant[:place] + letter + meant[place]]))
    key = slip + meant[place + 1 :]
    assume(key not in known and key.strip() == key)
    with pytest.raises(PresetError) as error:
        resolve(base, [f"{key}=1"])
    said = re.fullmatch(r"unknown key (.*); did you mean (.*)\?", str(error.value))
    assert said
    assert said[1] == key
    offered, _, elsewhere = said[2].partition(", with ")
    if elsewhere:  # another method or type of data has a setting of this very name
        assert offered.rpartition(".")[2] == key.rpartition(".")[2]
        return
    assert said[2] in known

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, other, key).ratio()

    same_name = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    assert likeness(said[2]) == max(map(likeness, same_name or known))


@LAWS
@given(
    key=st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="="), max_size=30),
    base=st.sampled_from(RESOLVED),
)
def test_any_other_key_is_refused_in_a_line(key: str, base: Values) -> None:
    assume(key.strip() not in fields_of(base))
    named = key.strip(" .") != ""
    refusal = f"^unknown key {re.escape(key.strip())}" if named else "is not an override; write section.key=value"
    with pytest.raises(PresetError, match=refusal) as error:
        resolve(base, [f"{key}=1"])
    assert len(str(error.value).splitlines()) == 1


@LAWS
@given(data=st.data(), base=st.sampled_from(RESOLVED))
def test_an_unknown_key_in_json_is_refused_by_its_dotted_name(data: st.DataObject, base: Values) -> None:
    sections = ["", *(name for name, value in base.items() if isinstance(value, dict))]
    section, name = data.draw(st.sampled_from(sections)), data.draw(st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
    values = json.loads(json.dumps(base))
    inside = values[section] if section else values
    assume(name not in inside)
    key = f"{section}.{name}" if section else name
    inside[name] = 1
    assume(key not in ("model.hidden_size", "model.num_layers"))
    with pytest.raises(PresetError, match=f"^unknown key {key}(;|$)"):
        resolve(values)
