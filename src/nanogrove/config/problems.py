"""What is wrong with a preset, in one line, with the key named and, where one is near, the key that was meant."""

from collections.abc import Iterable, Iterator, Mapping

from pydantic import ValidationError

from nanogrove.errors import PresetError, nearest
from nanogrove.settings import reason, shown

UNIONS = ("data", "method")  # sections of which pydantic's paths name the chosen one, as in `data.text.sources`
MAX_DEPTH = 32  # of lists and objects within each other
MAX_NUMBER = 1 << 63  # whole numbers are below, as tensors hold them


def explain(error: ValidationError, values: object, keys: Iterable[str]) -> str:
    """The first problem of the settings `values`, whose keys may be `keys`."""
    problems = error.errors()
    first = problems[0]
    path = first["loc"]
    if path and path[0] in UNIONS:
        path = (path[0], *path[2:])
    key = _dotted(_keys(path, values, last=first["type"] in ("missing", "extra_forbidden")))
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{nearest_key(key, keys)}"
    return f"{key}: {reason(problems)}" if key else reason(problems)


def _keys(path: tuple[str | int, ...], values: object, last: bool) -> Iterator[str | int]:
    """The parts of pydantic's path that are keys of `values`; with `last` its last part, whether it is there or not.

    The other parts are names of pydantic's, as that of a type among several.
    """
    for position, part in enumerate(path):
        parts = _parts(values)
        if part in parts:
            values = parts[part]
            yield part
        elif last and position == len(path) - 1:
            yield part


def _parts(value: object) -> Mapping[str | int, object]:
    """The values within a JSON value, by key or index."""
    if isinstance(value, Mapping):
        return value
    return dict(enumerate(value)) if isinstance(value, list) else {}


def _dotted(keys: Iterable[str | int]) -> str:
    """A key as overrides name it; what is inside of a list by its index, as in `data.sources[0].path`."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{_printable(key)}" for key in keys]
    return "".join(parts).removeprefix(".")


def _printable(key: str) -> str:
    return key if key.isprintable() and key == shown(key)[1:-1] else shown(key)


def refuse_unusable(value: object, key: tuple[str | int, ...] = ()) -> None:
    """Raises PresetError for JSON that no setting can be: nested too deeply, a number of too many digits, half a
    character."""
    if len(key) > MAX_DEPTH:
        raise PresetError(f"{_dotted(key[:3])}: is nested more than {MAX_DEPTH} deep; no setting is")
    if isinstance(value, int) and not -MAX_NUMBER <= value < MAX_NUMBER:
        raise PresetError(f"{_dotted(key)}: must be below 2^63, and a number of {len(str(value))} digits was given")
    if isinstance(value, str):
        _refuse_halves(value, key)
    for name, part in _parts(value).items():
        if isinstance(name, str):
            _refuse_halves(name, key)
        refuse_unusable(part, (*key, name))


def _refuse_halves(text: str, key: tuple[str | int, ...]) -> None:
    """Raises PresetError for text that no file can hold; under `data` a name of a file may hold escaped bytes."""
    try:
        text.encode(errors="surrogateescape" if key and str(key[0]).startswith("data") else "strict")
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        where = _dotted(key) or "the preset"
        raise PresetError(f"{where}: has half of a character, {half}, which is not text; take it out") from None


def nearest_key(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the nearest of the known words, or nothing when none is near."""
    known = list(known)
    in_other_sections = [key for key in known if key.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    near = nearest(word, in_other_sections, cutoff=0) or nearest(word, known, cutoff=0.7)
    return f"; {near}" if near else ""
