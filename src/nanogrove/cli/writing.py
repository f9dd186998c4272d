"""Text on a terminal while it is written, and lines of JSON once a text is whole."""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import TypeVar

from nanogrove.cli.text import printable
from nanogrove.cli.waits import shown_waits
from nanogrove.decoding.streaming import End, Piece

T = TypeVar("T")


def titled(count: int) -> Iterator[str]:
    """The line that stands before each of `count` texts; nothing where there is one."""
    for number in range(1, count + 1):
        yield f"--- {number} of {count} ---\n" if count > 1 else ""


def begun(pieces: Iterator[T]) -> Iterator[T]:
    """The same pieces, once the first is there; until then the wait is shown."""
    with shown_waits("reading the prompt"):
        first = list(islice(pieces, 1))
    return chain(first, pieces)


def show(text: str) -> None:
    """Writes text on the terminal at once, its control characters made visible."""
    print(printable(text), end="", flush=True)


def print_rows(prompts: Sequence[str], pieces: Generator[Piece, None, None], titles: Iterator[str]) -> None:
    """Shows texts as they are written, each after its title and its prompt; the next one when one has ended.

    What a text gets before its turn waits until then.
    """
    texts = list(prompts)  # what is not shown yet of each
    ended, shown = set[int](), 0
    with closing(pieces):
        for number, (row, text, end) in enumerate(begun(pieces)):
            texts[row] += text
            ended |= set() if end is None else {row}
            show("" if number else next(titles))
            while shown < len(texts):
                show(texts[shown])
                texts[shown] = ""
                if shown not in ended:
                    break
                shown += 1
                show("\n" + (next(titles) if shown < len(texts) else ""))


def print_json(prompts: Sequence[str], pieces: Generator[Piece, None, None]) -> None:
    """Prints a line of JSON for each prompt as soon as it and those before it have ended."""
    texts, ends = [""] * len(prompts), dict[int, End]()
    turn = 0
    with closing(pieces):
        for row, text, end in begun(pieces):
            texts[row] += text
            if end is not None:
                ends[row] = end
            while turn in ends:
                print(json.dumps(_fields(prompts[turn], texts[turn], ends[turn])), flush=True)
                turn += 1


def _fields(prompt: str, text: str, end: End) -> dict[str, object]:
    """A text as JSON, by the names of OpenAI's API."""
    counts = {"prompt_tokens": end.prompt_tokens, "completion_tokens": end.new_tokens}
    return {"prompt": prompt, "text": text, "finish_reason": end.reason, **counts}
