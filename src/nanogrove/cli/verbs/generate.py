"""`nanogrove generate`."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nanogrove.cli.terminal import RunFolder
from nanogrove.errors import PresetError


def generate(
    run: RunFolder,
    prompt: Annotated[list[str] | None, typer.Argument(help="One or more prompts; none starts a document.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens a prompt.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens; 20 where a reward steers.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the fewest tokens that reach this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Keep tokens of this share of the likeliest.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, words already seen are less likely.")] = 1.0,
    no_repeat_ngram: Annotated[int | None, typer.Option(min=1, help="Never write an n-gram twice.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of products; auto takes bfloat16 where the CPU multiplies it."),
    ] = "auto",
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Multiply the temperature by that of evaluate --calibrate.")
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Print the probability of each new token, and their mean in log.")
    ] = False,
    reward: Annotated[Path | None, typer.Option(help="The run of a reward model, to steer by or to choose.")] = None,
    beta: Annotated[float | None, typer.Option(help="What a reward of 1 adds to a logit; 5 when left out.")] = None,
    best_of: Annotated[
        int | None, typer.Option(help="Write so many texts a prompt; print that of most reward.")
    ] = None,
    speculative: Annotated[
        bool, typer.Option("--speculative", help="Draft with multi-token heads; the same texts in fewer steps.")
    ] = False,
    lookahead: Annotated[
        int | None, typer.Option(help="Search with value and dynamics heads, so many model calls a token.")
    ] = None,
) -> None:
    """Continue prompts with a run's best model."""
    if reward is None and (beta is not None or best_of is not None):
        raise PresetError(f"--{'best-of' if beta is None else 'beta'} needs a reward; name a run with --reward")
    if best_of is not None and (beta is not None or confidence):
        raise PresetError(f"--best-of goes without --{'confidence' if beta is None else 'beta'}; leave one of them out")
    if (speculative or lookahead is not None) and (confidence or best_of is not None):
        way, other = "speculative" if speculative else "lookahead", "confidence" if confidence else "best-of"
        raise PresetError(f"--{way} goes without --{other}; leave one out")
    from nanogrove.cli.text import printable
    from nanogrove.language_model import BETA, load

    lm = load(run)
    write: Any = lm.continuations if confidence else partial(lm.generate, speculative=speculative, lookahead=lookahead)
    if best_of is not None:
        write = partial(lm.best_of, best_of)
    steer = {} if best_of is not None else {"beta": BETA if beta is None else beta}
    written = write(
        prompt or [""],
        tokens,
        reward=reward,
        **steer,
        seed=seed,
        precision=precision,
        calibrated=calibrated,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
    )
    for each in written:
        print(printable(each if isinstance(each, str) else each.text))
        if not isinstance(each, str):
            for token, probability in zip(each.tokens, each.probabilities, strict=True):
                print(f"{probability:.4f}  {printable(repr(token))}")
            print(f"mean log-probability {each.mean_log_probability:.4f} nats a token of {len(each.tokens)} new tokens")
    choice = lm.precision(precision)
    if precision == "auto" or ";" in choice.reason:  # not what was asked for, or not in the way one would think
        print(f"decoded in {choice.format}: {choice.reason}", file=sys.stderr)
