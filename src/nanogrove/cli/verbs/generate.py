"""`nanogrove generate`."""

import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nanogrove.cli.terminal import RunFolder, prompts_of, standard_input
from nanogrove.errors import PresetError

if TYPE_CHECKING:
    from nanogrove.decoding.streaming import Piece
    from nanogrove.generation import GenerationOptions
    from nanogrove.language_model import Continuation, LanguageModel
    from nanogrove.train.precision import Choice, Weights

PROMPTS_AT_ONCE = 64  # of a file, which are decoded together


Prompts = Annotated[
    list[str] | None,
    typer.Argument(help="One or more prompts, - for standard input; without one, a new document begins."),
]
PromptFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Prompts, one per line or as rows of a .jsonl file; - for standard input."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON for each prompt: text, why it ended, numbers of tokens.")
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
    prompts: PromptFile = None,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with a run's best model; on a terminal the text is shown as it is written."""
    _check_reward_options(reward, beta, best_of, confidence)
    _check_strategy_options(speculative, lookahead, best_of, confidence)
    whole = "confidence" if confidence else "best-of" if best_of is not None else None  # what does not come in pieces
    for other in [name for name, given in (("chat", chat), ("json", as_json)) if given and whole]:
        raise PresetError(f"--{other} goes without --{whole}; leave one out")
    batches = _batches(prompt, prompts)
    from nanogrove.cli.text import printable
    from nanogrove.cli.waits import shown_waits
    from nanogrove.cli.writing import print_json, print_rows, titled

    with shown_waits("starting"):
        from nanogrove.data.rng import derived_seed
        from nanogrove.generation import BETA, DrawOptions, GenerationOptions, SteeredOptions
        from nanogrove.language_model import load

        lm = load(run)
    draw = DrawOptions(seed=seed, precision=precision, calibrated=calibrated, temperature=temperature, top_k=top_k)
    draw["stop"] = [text.replace("\\n", "\n").replace("\\t", "\t") for text in stop or []]
    draw |= {"top_p": top_p, "min_p": min_p, "no_repeat_ngram": no_repeat_ngram}
    draw["repetition_penalty"] = repetition_penalty
    titles = titled(sum(map(len, batches)))
    for number, batch in enumerate(batches):
        draw["seed"] = derived_seed(seed, "prompts", number) if number else seed
        steered: SteeredOptions = {**draw, "reward": reward, "beta": BETA if beta is None else beta}
        options: GenerationOptions = {**steered, "speculative": speculative, "lookahead": lookahead}
        if not whole and (as_json or sys.stdout.isatty()):
            for texts, pieces in _in_pieces(lm, batch, tokens, options, chat):
                if as_json:
                    print_json(texts, pieces)
                else:
                    print_rows([""] if chat else texts, pieces, titles)
            continue
        with shown_waits("reading the prompt"):
            if best_of is not None and reward is not None:
                texts = lm.best_of(best_of, batch, tokens, reward=reward, **draw)
            elif confidence:
                texts = [_with_confidence(each) for each in lm.continuations(batch, tokens, **steered)]
            elif chat:
                talks = ([{"role": "user", "content": text}] for text in batch)
                texts = [lm.chat(talk, tokens, **options) for talk in talks]  # type: ignore[arg-type]
            else:
                texts = lm.generate(batch, tokens, **options)
        for text in texts:
            print(next(titles) + printable(text), flush=len(batches) > 1)
    _print_format(lm.precision(precision), automatic=precision == "auto")


def _in_pieces(
    lm: "LanguageModel", prompts: list[str], tokens: int, options: "GenerationOptions", chat: bool
) -> "Generator[tuple[list[str], Generator[Piece, None, None]], None, None]":
    """Prompts with the pieces of what is written for them: all at once, or each as a message by itself."""
    if not chat:
        yield prompts, lm.pieces(prompts, tokens, **options)
    for text in prompts if chat else ():
        yield [text], lm.answer_pieces([{"role": "user", "content": text}], tokens, **options)


def _batches(words: Sequence[str] | None, path: str | None) -> list[list[str]]:
    """The prompts that are decoded together: those of the command line, or a number of a file's at once."""
    if words and path is not None:
        raise PresetError("prompts are given as words or with --prompts, not both; leave one out")
    if path is None:
        return [_prompts(list(words or [""]))]
    lines = prompts_of(path)
    return [lines[first : first + PROMPTS_AT_ONCE] for first in range(0, len(lines), PROMPTS_AT_ONCE)]


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
