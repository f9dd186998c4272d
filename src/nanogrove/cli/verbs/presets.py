"""`nanogrove presets`."""

from typing import Annotated

import typer

from nanogrove.cli.completion import complete_presets
from nanogrove.cli.terminal import console


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="A preset, to print in full; all are listed without one.", autocompletion=complete_presets),
    ] = None,
) -> None:
    """List the presets that come with nanogrove, or print one."""
    from nanogrove.cli.menu import printed_groups
    from nanogrove.config.catalog import list_presets, packaged_text, unknown_preset

    if name is not None:
        text = packaged_text(name)
        if text is None:
            raise unknown_preset(name)
        print(text.rstrip())
    elif console().is_terminal:
        printed_groups(console(), numbered=False)
    else:
        descriptions = list_presets()
        width = max(map(len, descriptions))
        for known, description in descriptions.items():
            print(f"{known:<{width}}  {description}")
