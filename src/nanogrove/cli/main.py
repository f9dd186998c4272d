"""The command line: `nanogrove VERB`, or `nanogrove` alone.

Nothing here imports torch until a verb needs it. Errors are one line on standard error and exit code 2; `--debug`,
anywhere, shows the trace. A run stopped by Ctrl-C or SIGTERM exits with 128 plus the signal's number.
"""

import sys
from importlib import import_module
from io import TextIOWrapper

import typer
from rich.console import Console
from rich.markup import escape

from nanogrove.cli.terminal import console, new_run_folder
from nanogrove.cli.verbs.presets import print_presets
from nanogrove.cli.verbs.train import train
from nanogrove.config.catalog import QUICKSTART
from nanogrove.errors import NanogroveError
from nanogrove.memory import used_up_as_error

# In the order of --help. Each is the function of that name in the module `nanogrove.cli.verbs.NAME`.
VERBS = (
    "presets",
    "settings",
    "train",
    "explore",
    "generate",
    "evaluate",
    "report",
    "lineage",
)

app = typer.Typer(
    add_completion=False,
    help="A laboratory for small language models.",
    epilog="`nanogrove` alone, on a terminal, offers the presets. --debug shows the trace of an error.",
    pretty_exceptions_enable=False,
)
for verb in VERBS:
    app.command()(getattr(import_module(f"nanogrove.cli.verbs.{verb}"), verb))


@app.callback(invoke_without_command=True)
def offer(context: typer.Context) -> None:
    """A laboratory for small language models."""
    if context.invoked_subcommand:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(context.get_help())
        return
    names = print_presets(numbered=True)
    answer = console.input(f"Train which? Enter takes [bold]{QUICKSTART}[/]: ").strip() or QUICKSTART
    name = names[int(answer) - 1] if answer.isdecimal() and 0 < int(answer) <= len(names) else answer
    train(name, [], new_run_folder(name))


def main() -> None:
    """Runs the command line and turns errors into one line and exit code 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal or pipe whose encoding lacks a character gets a mark
    try:
        with used_up_as_error():
            app()
    except (NanogroveError, OSError) as error:  # of the latter, what a disk refused where no more can be said
        if debug:
            raise
        from nanogrove.cli.text import printable

        line = printable(" ".join(str(error).split("\n")))
        Console(stderr=True).print(f"[red]error[/]: {escape(line)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
