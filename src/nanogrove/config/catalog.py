"""The presets that come with nanogrove, by name, and the JSON of any preset. Imports no torch."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from nanogrove.config.problems import nearest
from nanogrove.errors import PresetError


def list_presets() -> dict[str, str]:
    """Names and descriptions of the presets that come with nanogrove."""
    folder = resources.files("nanogrove") / "presets"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return {f.name.removesuffix(".json"): json.loads(f.read_text())["description"] for f in files}


def read_preset_file(name: str) -> dict[str, Any]:
    """The JSON of a preset by its name or by the path of a file. Raises PresetError when there is none such."""
    packaged = resources.files("nanogrove") / "presets" / f"{name}.json"
    path = packaged if packaged.is_file() else Path(name)
    if not path.is_file():
        hint = nearest(name, list_presets()) or "; `nanogrove presets` lists them, and a file ends in .json"
        raise PresetError(f"no preset is called {name!r}{hint}")
    try:
        preset = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PresetError(f"{name}: not a preset in JSON ({error})") from None
    if not isinstance(preset, dict):
        raise PresetError(f"{name}: not a preset; a preset is a JSON object with sections such as data and train")
    return {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-._") or "run", **preset}
