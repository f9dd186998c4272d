"""The presets that come with nanogrove, by name, and the JSON of any preset. Imports no torch."""

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from nanogrove.errors import PresetError, nearest
from nanogrove.json_reading import BadJsonError, parse_json, read_bytes

QUICKSTART = "quickstart"
OWN_TEXT = "own-text"  # names a file that each user has another of


@dataclass(frozen=True)
class Group:
    """Presets that serve one end.

    Args:
        title: what a person wants, and what it needs
        names: the presets
    """

    title: str
    names: tuple[str, ...]


GROUPS = (  # in the order of the menu, whose default comes last
    Group(
        "Published experiments in self-improvement; each needs a GPU",
        (
            "self-improve-addition",
            "self-improve-copy",
            "self-improve-maze",
            "self-improve-multiplication",
            "self-improve-reverse",
        ),
    ),
    Group("Text from the Hugging Face hub; needs a network and a GPU", ("general", "muzero-general", "qa")),
    Group("A table from Kaggle; needs a network", ("games-csv",)),
    Group("Compare with the best loss there is", ("rhm", "rlm", "rlm-deep")),
    Group("Learn from conversations", ("chat-quick",)),
    Group(
        "Learn from scores and preferences",
        ("align-terms", "dpo", "offline-rl", "policy-gradient-quick", "reward-model"),
    ),
    Group("Evolve a population", ("evolve", "evolve-es", "evolve-pbt")),
    Group("Predict with several models at once", ("ensemble",)),
    Group(
        "Learn from its own answers, or more than the next token",
        ("muzero-quick", "self-improve-addition-quick", "self-improve-quick"),
    ),
    Group("Train on text of your own; asks for a file or a folder", (OWN_TEXT,)),
    Group("Begin here", (QUICKSTART,)),
)


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
    if text is None and Path(name).is_dir():
        raise PresetError(f"{name}: is a folder, and a preset is a file; the run in a folder goes on with --resume")
    if text is None and not Path(name).is_file():
        raise unknown_preset(name)
    try:
        return parse_preset(read_bytes(Path(name)) if text is None else text, name)
    except OSError as error:
        raise PresetError(f"{name}: cannot be read ({error.strerror})") from None
    except BadJsonError as error:
        raise PresetError(f"{name}: not a preset in JSON ({error})") from None


def parse_preset(text: str | bytes, name: str) -> dict[str, Any]:
    """A preset from its JSON, which has this `name` unless it gives another. Raises PresetError where it is none."""
    try:
        preset = parse_json(text)
    except BadJsonError as error:
        raise PresetError(f"{name}: not a preset in JSON ({error})") from None
    if not isinstance(preset, dict):
        raise PresetError(f"{name}: not a preset; a preset is a JSON object with sections such as data and train")
    return {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-._") or "run", **preset}
