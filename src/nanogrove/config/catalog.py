"""The presets that come with nanogrove, by name, and the JSON of any preset. Imports no torch."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from nanogrove.errors import PresetError, nearest
from nanogrove.json_reading import BadJsonError, parse_json, read_json

QUICKSTART = "quickstart"


def list_presets() -> dict[str, str]:
    """Names and descriptions of the presets that come with nanogrove."""
    folder = resources.files("nanogrove") / "presets"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return {f.name.removesuffix(".json"): json.loads(f.read_text())["description"] for f in files}


def packaged_text(name: str) -> str | None:
    """The JSON of a preset that comes with nanogrove; None where none has the name."""
    if name not in list_presets():  # a path could lead out of the folder
        return None
    return (resources.files("nanogrove") / "presets" / f"{name}.json").read_text(encoding="utf-8")


def unknown_preset(name: str) -> PresetError:
    """The error that no preset has this name, with the nearest name where one is near."""
    near = nearest(name, list_presets(), cutoff=0.7)
    hint = f"; {near}" if near else "; `nanogrove presets` lists them, and a file ends in .json"
    return PresetError(f"no preset is called {name!r}{hint}")


def read_preset_file(name: str) -> dict[str, Any]:
    """The JSON of a preset by its name or by the path of a file. Raises PresetError when there is none such."""
    text = packaged_text(name)
    if text is None and not Path(name).is_file():
        raise unknown_preset(name)
    try:
        preset = read_json(Path(name)) if text is None else parse_json(text)
    except OSError as error:
        raise PresetError(f"{name}: cannot be read ({error.strerror})") from None
    except BadJsonError as error:
        raise PresetError(f"{name}: not a preset in JSON ({error})") from None
    if not isinstance(preset, dict):
        raise PresetError(f"{name}: not a preset; a preset is a JSON object with sections such as data and train")
    return {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-._") or "run", **preset}
