"""Pages of the site that are made from the project itself: start page, reference, command line, settings, presets.

A hook of mkdocs. What is made here cannot drift from the source: docstrings, the settings' own descriptions, every
`--help`. A public name without a docstring fails the build.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import undocumented

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "nanogrove"
COPIED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the sections of the navigation that are lists of files. Raises PluginError for a name without docstring."""
    missing = list(undocumented(SOURCE))
    if missing:
        raise PluginError("public names without a docstring: " + ", ".join(missing))
    sections: dict[str, list[Any]] = {
        "Reference": [
            {"Command line": "reference/command-line.md"},
            {"Settings": "reference/settings.md"},
            {"Presets": "reference/presets.md"},
            {"Python": "reference/python.md"},
            {"Source": [{room: f"reference/source/{room}.md"} for room in rooms()]},
        ],
        "Decisions": [f"decisions/{path.name}" for path in decisions()],
    }
    config.nav = [filled(entry, sections) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    pages = {to: copied(ROOT / name) for name, to in COPIED.items()}
    pages["reference/command-line.md"] = command_line()
    pages["reference/settings.md"] = settings()
    pages["reference/presets.md"] = presets()
    pages["reference/python.md"] = python()
    pages |= {f"reference/source/{room}.md": source(room) for room in rooms()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def filled(entry: Any, sections: dict[str, list[Any]]) -> Any:
    """An entry of the navigation, with empty sections filled by name."""
    if not isinstance(entry, dict):
        return entry
    return {
        title: sections[title]
        if title in sections
        else [filled(inner, sections) for inner in below]
        if isinstance(below, list)
        else below
        for title, below in entry.items()
    }


def decisions() -> list[Path]:
    """The pages of decisions, in order."""
    return sorted((ROOT / "docs" / "decisions").glob("*.md"))


def rooms() -> list[str]:
    """The packages of the source and the modules beside them."""
    names = [path.parent.name if path.name == "__init__.py" else path.stem for path in SOURCE.glob("*/__init__.py")]
    return sorted(names) + sorted(path.stem for path in SOURCE.glob("[a-z]*.py"))


def copied(path: Path) -> str:
    """A page of the project's root, its links as seen from the folder of the site."""
    text = path.read_text(encoding="utf-8")
    for name, to in COPIED.items():
        text = text.replace(f"]({name})", f"]({to})")
    text = re.sub(r"\[([^\]]+)\]\(src/[^)]+\)", r"\1", text)  # the source is no page of the site
    text = re.sub(r"\]\(docs/decisions/?\)", f"](decisions/{decisions()[0].name})", text)
    return text.replace("](docs/", "](")


def command_line() -> str:
    """Every `--help`, as a terminal of 80 columns shows it."""
    text = "# The command line\n\nWhat `nanogrove --help` and the `--help` of each verb print.\n"
    for verb in ["", *verbs()]:
        shown = run(*verb.split(), "--help")
        text += f"\n## `nanogrove {verb}`\n".replace(" `\n", "`\n") + f"\n```text\n{shown.strip()}\n```\n"
    return text


def verbs() -> list[str]:
    """The names of all verbs, as `--help` lists them."""
    shown = run("--help")
    return re.findall(r"^│ ([a-z]\S+) ", shown.partition("Commands")[2], re.MULTILINE)


def run(*arguments: str) -> str:
    """What the command prints, without colours."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1", "PYTHONPATH": str(SOURCE.parent)}
    start = "import sys; sys.argv[0] = 'nanogrove'; from nanogrove.cli.main import main; main()"
    command = [sys.executable, "-c", start, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def settings() -> str:
    """A table of each section's settings: key, values, default, meaning."""
    from nanogrove.config.settings import all_settings

    text = "# Settings\n\n`nanogrove settings [KEY]` prints the same. A key of several kinds says of which it is.\n"
    section = ""
    for setting in all_settings():
        if setting.key.partition(".")[0] != section:
            section = setting.key.partition(".")[0]
            text += f"\n## {section}\n\n| key | values | default | meaning |\n| --- | --- | --- | --- |\n"
        key = f"`{setting.key}`" + (f" of {setting.of}" if setting.of else "")
        default = "required" if setting.required else f"`{json.dumps(setting.default, ensure_ascii=False)}`"
        cells = (key, setting.type, default, setting.description)
        text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text


def presets() -> str:
    """The presets that come with nanogrove: what each is for, and its JSON."""
    text = "# Presets\n\nA preset is one JSON file. `nanogrove train NAME section.key=value` overrides its settings.\n"
    for path in sorted((SOURCE / "presets").glob("*.json")):
        text += f"\n## {path.stem}\n\n```json\n{path.read_text(encoding='utf-8').strip()}\n```\n"
    return text


def python() -> str:
    """The public names of the package, from their docstrings."""
    import nanogrove

    names = sorted(nanogrove.__all__, key=lambda name: (name == "NanogroveError", name))
    return "# Python\n\n" + "".join(f"\n::: nanogrove.{name}\n" for name in names)


def source(room: str) -> str:
    """All public names of a room, module by module."""
    folder = SOURCE / room
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{room}.py"]
    text = f"# `nanogrove.{room}`\n"
    for path in paths:
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        text += f"\n::: {name}\n"
    return text
