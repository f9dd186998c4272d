"""`nanogrove generate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nanogrove.cli.terminal import RunFolder, standard_input
from nanogrove.errors import PresetError

if TYPE_CHECKING:
    from nanogrove.language_model import Continuation
    from nanogrove.train.precision import Choice, Weights


Prompts = Annotated[
    list[str] | None,
    typer.Argument(help="One or more prompts, - for standard input; without one, a new document begins."),
]
Tokens = Annotated[int, typer.Option(min=1, help="New tokens per prompt.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k most likely tokens; 20 where a reward steers.")]
TopP = Annotated[float | None, typer.Option(help="Keep the fewest tokens that reach this probability.")]
MinP = Annotated[
    float | None, typer.Option(help="Keep tokens of at least this share of the likeliest one's probability.")
]
Penalty = Annotated[float, typer.Option(help="Above 1, words already seen are less likely.")]
NoRepeat = Annotated[int | None, typer.Option(min=1, help="Never write an n-gram twice.")]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End before this text, where \\n is a line end; give it again for others."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1)]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(help="Of matrix products; auto takes bfloat16 where the CPU multiplies it; int8 rounds weights."),
]
Calibrated = Annotated[
    bool, typer.Option("--calibrated", help="Multiply the temperature by that of evaluate --calibrate.")
]
Confidence = Annotated[
    bool, typer.Option("--confidence", help="Print the probability of each new token, and the mean log-probability.")
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Each prompt is a message of the user; print what the assistant answers.")
]
Reward = Annotated[
    Path | None, typer.Option(help="The run of a reward model, which steers the text or chooses a sample.")
]
Beta = Annotated[float | None, typer.Option(help="What a reward of 1 adds to a logit; 5 when left out.")]
BestOf = Annotated[
    int | None, typer.Option(help="Sample N completions per prompt and print the one with the highest reward.")
]
Speculative = Annotated[
    bool, typer.Option("--speculative", help="Draft with multi-token heads; the same texts in fewer steps.")
]
Lookahead = Annotated[
    int | None, typer.Option(help="Search with value and dynamics heads, with N model calls per token.")
]


def generate(
    run: RunFolder,
    prompt: Prompts = None,
    tokens: Tokens = 100,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = 1.0,
    no_repeat_ngram: NoRepeat = None,
    stop: Stop = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    calibrated: Calibrated = False,
    confidence: Confidence = False,
    chat: Chat = False,
    reward: Reward = None,
    beta: Beta = None,
    best_of: BestOf = None,
    speculative: Speculative = False,
    lookahead: Lookahead = None,
) -> None:
    """Continue prompts with a run's best model."""
    _check_reward_options(reward, beta, best_of, confidence)
    _check_strategy_options(speculative, lookahead, best_of, confidence)
    if chat and (confidence or best_of is not None):
        raise PresetError(f"--chat goes without --{'confidence' if confidence else 'best-of'}; leave one out")
    from nanogrove.cli.text import printable
    from nanogrove.cli.waits import shown_waits

    prompts = _prompts(prompt or [""])
    with shown_waits("starting"):
        from nanogrove.generation import BETA, DrawOptions, GenerationOptions, SteeredOptions
        from nanogrove.language_model import load

        lm = load(run)
    draw = DrawOptions(seed=seed, precision=precision, calibrated=calibrated, temperature=temperature, top_k=top_k)
    draw["stop"] = [text.replace("\\n", "\n").replace("\\t", "\t") for text in stop or []]
    draw |= {"top_p": top_p, "min_p": min_p, "no_repeat_ngram": no_repeat_ngram}
    draw["repetition_penalty"] = repetition_penalty
    steered: SteeredOptions = {**draw, "reward": reward, "beta": BETA if beta is None else beta}
    with shown_waits("reading the prompt"):
        if best_of is not None and reward is not None:
            texts = lm.best_of(best_of, prompts, tokens, reward=reward, **draw)
        elif confidence:
            texts = [_with_confidence(each) for each in lm.continuations(prompts, tokens, **steered)]
        elif chat:
            options: GenerationOptions = {**steered, "speculative": speculative, "lookahead": lookahead}
            texts = [lm.chat([{"role": "user", "content": text}], tokens, **options) for text in prompts]
        else:
            texts = lm.generate(prompts, tokens, speculative=speculative, lookahead=lookahead, **steered)
    for number, text in enumerate(texts, start=1):
        if len(texts) > 1:
            print(f"--- {number} of {len(texts)} ---")
        print(printable(text))
    _print_format(lm.precision(precision), automatic=precision == "auto")


def _check_reward_options(reward: Path | None, beta: float | None, best_of: int | None, confidence: bool) -> None:
    """Raises PresetError for options of a reward without one, and for two that exclude each other."""
    if reward is None and (beta is not None or best_of is not None):
        raise PresetError(f"--{'best-of' if beta is None else 'beta'} needs a reward; name a run with --reward")
    if best_of is not None and (beta is not None or confidence):
        raise PresetError(f"--best-of goes without --{'confidence' if beta is None else 'beta'}; leave one of them out")


def _check_strategy_options(speculative: bool, lookahead: int | None, best_of: int | None, confidence: bool) -> None:
    """Raises PresetError for a decoding strategy beside an option that it excludes."""
    if (speculative or lookahead is not None) and (confidence or best_of is not None):
        strategy, other = "speculative" if speculative else "lookahead", "confidence" if confidence else "best-of"
        raise PresetError(f"--{strategy} goes without --{other}; leave one out")


def _prompts(prompts: list[str]) -> list[str]:
    """The prompts, with standard input in place of a dash. Raises PresetError for two dashes."""
    if prompts.count("-") > 1:
        raise PresetError("standard input is one prompt; give - once")
    return [standard_input() if prompt == "-" else prompt for prompt in prompts]


def _with_confidence(continuation: "Continuation") -> str:
    """A text, followed by the probability of each of its new tokens and their mean log-probability."""
    lines = [continuation.text]
    for token, probability in zip(continuation.tokens, continuation.probabilities, strict=True):
        lines.append(f"{probability:.4f}  {token!r}")
    mean, count = continuation.mean_log_probability, len(continuation.tokens)
    return "\n".join([*lines, f"mean log-probability {mean:.4f} nats per token of {count} new tokens"])


def _print_format(choice: "Choice[Weights]", automatic: bool) -> None:
    """Prints the number format on standard error where it was not asked for, or is not computed as usual."""
    if automatic or ";" in choice.reason:
        print(f"decoded in {choice.format}: {choice.reason}", file=sys.stderr)
