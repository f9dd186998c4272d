"""`nanogrove serve`."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from nanogrove.cli.completion import complete_runs
from nanogrove.errors import PresetError

Runs = Annotated[
    list[Path],
    typer.Argument(help="Run folders; the name of a folder is that of its model.", autocompletion=complete_runs),
]
Host = Annotated[str, typer.Option(help="Address; one that other machines reach needs NANOGROVE_API_KEY to be set.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")]
Rows = Annotated[int, typer.Option(min=1, max=1024, help="Requests of a model that are written at a time.")]
Queue = Annotated[int, typer.Option(min=0, max=100_000, help="Requests of a model that may wait; others get 429.")]
MaxTokens = Annotated[int, typer.Option(min=1, max=10_000_000, help="New tokens that a request may ask for.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"], typer.Option(help="Of matrix products, as generate takes it.")
]


def serve(
    runs: Runs,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    rows: Rows = 16,
    queue: Queue = 64,
    max_tokens: MaxTokens = 4096,
    precision: Precision = "auto",
) -> None:
    """Serve the best models of runs to clients of OpenAI's interface."""
    try:
        import starlette
        import uvicorn
    except ImportError:
        raise PresetError("serve needs starlette and uvicorn; pip install 'nanogrove[serve]'") from None
    del starlette, uvicorn
    names = [run.resolve().name for run in runs]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise PresetError(f"two runs are called {repeated}; serve them apart, each with a --port of its own")
    from nanogrove.cli.text import printable
    from nanogrove.cli.waits import shown_waits

    with ExitStack() as stack:
        with shown_waits("starting"):
            from nanogrove.language_model import load
            from nanogrove.serve.app import Desk, Rules, Served, application
            from nanogrove.serve.engine import opened
            from nanogrove.serve.listening import KEY_VARIABLE, Server, listen

            key = os.environ.get(KEY_VARIABLE)
            address = listen(host, port, key)
            stack.callback(address.socket.close)
            models = {}
            for name, run in zip(names, runs, strict=True):
                lm = load(run)
                engine = stack.enter_context(opened(lm, rows, queue, precision, str(run)))
                models[name] = Served(lm, engine, int(run.stat().st_mtime))
        desk = Desk(models, Rules(address.hosts, key, max_tokens))
        print(f"{address.url}/v1 serves {printable(', '.join(names))}; Ctrl-C ends it", flush=True)
        Server(application(desk), desk.worker.stop).run(sockets=[address.socket])
