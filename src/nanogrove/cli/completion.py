"""What a shell offers after a TAB: presets, run folders and settings.

Names of settings come from the classes that define them, which takes as long as importing torch; so they are kept in
the cache folder until a file of nanogrove changes.
"""

import json
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CACHED_BYTES = 1 << 22  # of the settings in the cache, at most
DESCRIPTION_CHARACTERS = 60
SOURCE = Path(__file__).parent.parent


def complete_presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets that come with nanogrove, each with its description."""
    from nanogrove.config.catalog import list_presets

    return [(name, _cut(text)) for name, text in list_presets().items() if name.startswith(incomplete)]


def complete_presets_and_runs(incomplete: str) -> list[tuple[str, str]]:
    """Presets, files of presets, and run folders."""
    files = [(str(path), "a preset") for path in _paths(incomplete) if path.suffix == ".json" and path.is_file()]
    return [*complete_presets(incomplete), *files, *complete_runs(incomplete)]


def complete_runs(incomplete: str) -> list[tuple[str, str]]:
    """Run folders, and folders that may hold some."""
    runs: list[tuple[str, str]] = []
    for path in _paths(incomplete):
        if (path / "preset.json").is_file():
            runs.append((str(path), "a run"))
        elif path.is_dir() and any(_paths(f"{path}/", "preset.json")):
            runs.append((f"{path}/", "a folder of runs"))
            runs += [(str(run), "a run") for run in _paths(f"{path}/") if (run / "preset.json").is_file()]
    return runs


def complete_folders(incomplete: str) -> list[str]:
    """Folders."""
    return [f"{path}/" for path in _paths(incomplete) if path.is_dir()]


def complete_settings(incomplete: str) -> list[tuple[str, str]]:
    """Keys of settings, with their meanings."""
    settings = _known_settings()
    return [(f"{key}=", _cut(meaning)) for key, meaning in settings.items() if key.startswith(incomplete)]


def _cut(text: str) -> str:
    """A description in a line that a shell shows beside a name."""
    return textwrap.shorten(text, DESCRIPTION_CHARACTERS, placeholder=" ...")


def _paths(incomplete: str, within: str = "") -> Iterator[Path]:
    """Paths that begin as `incomplete` does; with `within`, only those of folders that hold this name."""
    folder, _, start = incomplete.rpartition("/")
    with suppress(OSError):
        for path in sorted(Path(f"{folder}/" if "/" in incomplete else ".").iterdir()):
            shown = path.name.startswith(start) and (start or not path.name.startswith("."))
            if shown and (not within or (path / within).is_file()):
                yield path


def _known_settings() -> dict[str, str]:
    """Meanings of settings by key, from the cache where it is of this code."""
    stamp = max(path.stat().st_mtime_ns for path in SOURCE.rglob("*.py"))
    from nanogrove.atomic import read_file, write_file
    from nanogrove.data.text.cache import cache_folder

    cache = cache_folder() / "settings.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(read_file(cache, CACHED_BYTES))
        if stored["stamp"] == stamp:
            return dict(stored["settings"])
    from nanogrove.config.settings import all_settings

    settings = {setting.key: setting.description for setting in all_settings() if "[]" not in setting.key}
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_file(cache, json.dumps({"stamp": stamp, "settings": settings}).encode())
    return settings
