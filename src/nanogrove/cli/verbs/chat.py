"""`nanogrove chat`."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from nanogrove.cli.completion import complete_runs
from nanogrove.cli.verbs.generate import MinP, Penalty, Precision, Seed, Temperature, TopK, TopP
from nanogrove.errors import CheckpointError, DataError

Runs = Annotated[
    list[Path],
    typer.Argument(help="One run folder or several, which answer side by side.", autocompletion=complete_runs),
]
AnswerTokens = Annotated[int, typer.Option(min=1, help="New tokens per answer, at most.")]
System = Annotated[str, typer.Option(metavar="TEXT", help="A message of the system, before all others.")]


def chat(
    runs: Runs,
    tokens: AnswerTokens = 500,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = 0,
    precision: Precision = "auto",
    system: System = "",
) -> None:
    """Talk to runs that were trained on conversations; /help lists what else a line may be."""
    from nanogrove.cli.waits import shown_waits

    if sys.stdin is None:
        raise DataError("standard input: is closed, so nothing can be read from it")
    with shown_waits("starting"):
        from nanogrove.cli.conversation import Chat, Side, note, take_line
        from nanogrove.generation import GenerationOptions, checked_sampling
        from nanogrove.language_model import load

        options = GenerationOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        options["repetition_penalty"] = repetition_penalty
        checked_sampling(options)
        sides = [Side(str(run), load(run)) for run in runs]
    for side in sides:
        side.model.precision(precision)
        if side.model.tokenizer.chat_template is None:
            raise CheckpointError(
                f"{side.name}: has no chat template, since it was not trained on conversations; train one with "
                f'data.type=chat, or continue a text with `nanogrove generate {side.name} "Once upon"`'
            )
    options |= {"seed": seed, "precision": precision}
    talk = Chat(sides, tokens, options, system)
    talk.reset()
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    if asks:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  # lines are edited, and the arrows bring back earlier ones
        note("/help lists commands; Ctrl-C ends an answer; Ctrl-D leaves")
    while True:
        try:
            line = input("> " if asks else "")
            if line.strip():
                take_line(talk, line)
        except KeyboardInterrupt:
            print()
            note("Ctrl-D or /quit leaves")
        except UnicodeDecodeError:
            note("this line is not UTF-8 text; write it anew")
        except EOFError:
            if asks:
                print()
            return
