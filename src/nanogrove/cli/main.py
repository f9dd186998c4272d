"""The command line: `nanogrove VERB`, or `nanogrove` alone.

Nothing here imports torch until a verb needs it. Errors are one line on standard error and exit code 2; `--debug`,
anywhere, shows the trace. A run stopped by Ctrl-C or SIGTERM exits with 128 plus the signal's number.
"""

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from nanogrove.cli.menu import ask_overrides, ask_preset, printed_groups
from nanogrove.cli.terminal import console, new_run_folder
from nanogrove.cli.verbs.train import train
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

CONTEXTS = {"train": {"ignore_unknown_options": True}}  # it says which setting such an option means


class Verbs(TyperGroup):
    """The verbs, of which each wait ends at Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a verb; Ctrl-C gives one line on standard error and exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            echoed = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C
            print(f"{echoed}stopped by Ctrl-C", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Verbs,
    help="A laboratory for small language models.",
    epilog="`nanogrove` alone, on a terminal, offers the presets. --debug shows the trace of an error.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for verb in VERBS:
    app.command(context_settings=CONTEXTS.get(verb))(getattr(import_module(f"nanogrove.cli.verbs.{verb}"), verb))


@app.callback(invoke_without_command=True)
def offer(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version, then exit.")] = False,
) -> None:
    """A laboratory for small language models."""
    if version:
        print_version()
        raise typer.Exit
    if context.invoked_subcommand:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(context.get_help())
        return
    try:
        name = ask_preset(console, printed_groups(console, numbered=True))
        overrides = ask_overrides(console, name)
    except EOFError:
        print()
        raise typer.Exit from None
    train(name, overrides, new_run_folder(name))


def print_version() -> None:
    """Prints the versions that a report of a fault should name."""
    from importlib.metadata import version

    python = ".".join(map(str, sys.version_info[:3]))
    print(f"nanogrove {version('nanogrove')} (torch {version('torch')}, Python {python}, {sys.platform})")


def main() -> None:
    """Runs the command line and turns errors into one line and exit code 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal or pipe whose encoding lacks a character gets a mark
    try:
        with used_up_as_error():
            app(prog_name="nanogrove")
    except (NanogroveError, OSError) as error:  # of the latter, what a disk refused where no more can be said
        if debug:
            raise
        from nanogrove.cli.text import printable

        line = printable(" ".join(str(error).split("\n")))
        Console(stderr=True).print(f"[red]error[/]: {escape(line)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:  # before a verb began
        sys.exit(130)
