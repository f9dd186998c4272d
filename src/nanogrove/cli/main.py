"""The command line: `nanogrove VERB`, or `nanogrove` alone.

Nothing here imports torch until a verb needs it. Errors are one line on standard error and exit code 2; `--debug`,
anywhere, shows the trace. A run stopped by Ctrl-C or SIGTERM exits with 128 plus the signal's number.
"""

import gc
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nanogrove.atomic import FULL, described
from nanogrove.cli.options import Verb, check_options, known_options
from nanogrove.cli.terminal import console, new_run_folder
from nanogrove.cli.text import printable
from nanogrove.cli.verbs.train import train
from nanogrove.errors import NanogroveError, PresetError, nearest
from nanogrove.memory import used_up_as_error

# In the order of --help. Each is the function of that name in the module `nanogrove.cli.verbs.NAME`.
VERBS = (
    "presets",
    "settings",
    "train",
    "compare",
    "regret",
    "explore",
    "generate",
    "chat",
    "serve",
    "evaluate",
    "export",
    "report",
    "runs",
    "ui",
    "lineage",
)


class Verbs(TyperGroup):
    """The verbs, of which each wait ends at Ctrl-C."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes the words up to the verb. Raises PresetError for an option that is not known."""
        if not ctx.resilient_parsing:  # as it is to complete a line that is not whole yet
            known = known_options(self.params, ctx.help_option_names)
            check_options(args, known, ctx.command_path, first_only=True)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes each verb with its whole sentence, where typer would cut it to a line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].help or "") for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that is named first. Raises PresetError for one that there is not."""
        if args[0] not in VERBS and not ctx.resilient_parsing:
            hint = nearest(args[0], VERBS) or f"verbs are {', '.join(VERBS)}"
            raise PresetError(f"no such verb: {args[0]}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a verb; Ctrl-C gives one line on standard error and exit code 130."""
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk is said here, and not by Python as it ends
            return result
        except KeyboardInterrupt:
            echoed = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C
            print(f"{echoed}stopped by Ctrl-C", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode=None,  # plain text: all that typer imports to draw boxes takes as long as the rest
    help="A laboratory for small language models.",
    epilog="`nanogrove` alone, on a terminal, offers the presets. --debug shows the trace of an error.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
for verb in VERBS:
    app.command(cls=Verb)(getattr(import_module(f"nanogrove.cli.verbs.{verb}"), verb))


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
    from nanogrove.cli.menu import ask_overrides, ask_preset, printed_groups

    try:
        name = ask_preset(console(), printed_groups(console(), numbered=True))
        overrides = ask_overrides(console(), name)
    except EOFError:
        print()
        raise typer.Exit from None
    train(name, overrides, new_run_folder(name))


def print_version() -> None:
    """Prints the versions that a report of a fault should name."""
    from importlib.metadata import version

    python = ".".join(map(str, sys.version_info[:3]))
    print(f"nanogrove {version('nanogrove')} (torch {version('torch')}, Python {python}, {sys.platform})", flush=True)


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
    except NanogroveError as error:
        if debug:
            raise
        fail(str(error))
    except OSError as error:  # what the system refused where no more can be said
        if debug:
            raise
        lost = error.filename is None and error.errno in FULL  # writers of files name them
        if lost:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again as it ends
        fail(described(error, where="standard output" if lost else None))
    except KeyboardInterrupt:  # before a verb began
        sys.exit(130)
    finally:
        gc.freeze()  # to look through the objects of torch for garbage, as the process ends, takes half a second


def fail(error: str) -> NoReturn:
    """Shows an error in one line on standard error, and exits with code 2."""
    from rich.console import Console
    from rich.markup import escape

    line = printable(" ".join(error.split("\n")))
    Console(stderr=True, emoji=False).print(f"[red]error[/]: {escape(line)}", highlight=False, soft_wrap=True)
    sys.exit(2)
