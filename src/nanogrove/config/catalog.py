"""The presets that come with nanogrove, by name. Imports no torch, so that they are listed at once."""

import json
from importlib import resources

from nanogrove.errors import PresetError, nearest

QUICKSTART = "quickstart"


def list_presets() -> dict[str, str]:
    """Names and descriptions of the presets that come with nanogrove."""
    folder = resources.files("nanogrove") / "presets"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return {file.name.removesuffix(".json"): json.loads(file.read_text())["description"] for file in files}


def preset_text(name: str) -> str | None:
    """The JSON of a preset that comes with nanogrove; None where none has the name."""
    file = resources.files("nanogrove") / "presets" / f"{name}.json"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def unknown_preset(name: str) -> PresetError:
    """The error that no preset has this name, with the nearest name where one is near."""
    near = nearest(name, list_presets(), cutoff=0.7)
    hint = near or "`nanogrove presets` lists them, and a file ends in .json"
    return PresetError(f"no preset is called {name!r}; {hint}")
