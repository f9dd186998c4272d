"""`nanogrove settings`."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nanogrove.cli.terminal import text_width

if TYPE_CHECKING:
    from nanogrove.config.settings import Setting


def settings(
    key: Annotated[str | None, typer.Argument(help="A key or a section, such as train.steps or optimizer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of objects, one per setting.")] = False,
) -> None:
    """List every setting of a preset, or those of a section: values, default, limits and meaning."""
    from nanogrove.config.settings import all_settings, find_settings

    chosen = all_settings() if key is None else find_settings(key)
    if as_json:
        print(json.dumps([asdict(setting) for setting in chosen], indent=1))
        return
    for setting in chosen:
        for line in described_setting(setting, text_width()):
            print(line)


def described_setting(setting: "Setting", width: int) -> Iterator[str]:
    """A setting in lines of at most `width` characters: key and values, then the meaning."""
    owner = f" ({setting.of})" if setting.of else ""
    default = "; required" if setting.required else ""
    if not setting.required and setting.type != "a section":
        default = f"; default {json.dumps(setting.default, ensure_ascii=False)}"
    yield f"{setting.key}{owner}"
    for text in (f"{setting.type}{default}", setting.description):
        yield from textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
