"""`nanogrove ui`."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from nanogrove.cli.completion import complete_folders
from nanogrove.cli.verbs.runs import DEFAULT_FOLDERS
from nanogrove.errors import PresetError


def ui(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where runs are; runs and studies when left out.", autocompletion=complete_folders),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8100,
) -> None:
    """Show all runs below a folder in a browser, live."""
    try:
        import starlette
        import uvicorn
    except ImportError:
        raise PresetError("ui needs starlette and uvicorn; pip install 'nanogrove[ui]'") from None
    del starlette, uvicorn
    from nanogrove.cli.waits import shown_waits

    with shown_waits("starting"):
        from nanogrove.serve.listening import Server, listen
        from nanogrove.ui.app import application
        from nanogrove.ui.door import KEY
        from nanogrove.ui.index import Index

        index = Index(Path(), DEFAULT_FOLDERS) if folder is None else Index(folder)
        address = listen("127.0.0.1", port, None)
    with address.socket:
        secret = secrets.token_urlsafe(24)
        app, pages = application(index, secret)
        print(f"{address.url}/?{KEY}={secret} shows the runs; Ctrl-C ends the page, and no run", flush=True)
        Server(app, pages.close).run(sockets=[address.socket])
