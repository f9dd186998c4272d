"""Tasks with known answers: questions and answers of a chosen difficulty, and a checker.

    copy                12345=                12345
    reverse             12345=                54321
    reversed-addition   21+54=                750              12 + 45, least digit first, padded
    addition            12+45=                57
    multiplication      21*43=                840+0630=8040    12 × 34 with its partial products
    maze                A>C#B:A,C-A:B-C:B=    A>B>C            the path through a tree, harder by hops
    maze-nodes          the same              the same         harder by nodes

Formats of Lee et al. 2025, "Self-Improving Transformers Overcome Easy-to-Hard and Length Generalization Challenges",
arXiv 2502.01612; where nanogrove differs, the module of the task says so. One character is one token.
"""

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from nanogrove.data.rng import random
from nanogrove.errors import DataError, nearest

TASKS = {
    "copy": "nanogrove.synthetic.copying.copy",
    "reverse": "nanogrove.synthetic.copying.reverse",
    "reversed-addition": "nanogrove.synthetic.arithmetic.reversed_addition",
    "addition": "nanogrove.synthetic.arithmetic.addition",
    "multiplication": "nanogrove.synthetic.arithmetic.multiplication",
    "maze": "nanogrove.synthetic.maze.maze",
    "maze-nodes": "nanogrove.synthetic.maze.maze_nodes",
}


class Task(Protocol):
    """Makes questions and answers. A prompt ends in `=`; neither text holds the mark that ends an answer."""

    @property
    def name(self) -> str:
        """Its key in `TASKS`."""

    @property
    def symbols(self) -> str:
        """Every character that a prompt or an answer may hold, sorted."""

    def example(self, difficulty: int, generator: np.random.Generator) -> tuple[str, str]:
        """A random prompt of this difficulty and its true answer. Raises DataError for a difficulty out of range."""

    def answer(self, prompt: str) -> str | None:
        """The true answer of any prompt of the task, whatever its difficulty; None for one that is malformed."""

    def correct(self, prompt: str, answer: str) -> bool:
        """Whether `answer` is true, in full; False for a malformed prompt."""

    def longest(self, difficulty: int) -> int:
        """Most characters that a prompt and its answer have together at this difficulty.

        Raises DataError for a difficulty out of range.
        """


def find_task(name: str, **options: object) -> Task:
    """The task of this name, with its options.

    Raises DataError for a name or an option that does not exist, and for an option's value that makes no sense.
    """
    if name not in TASKS:
        raise DataError(f"no task is called {name!r}{_hint(name, TASKS)}; there are {', '.join(TASKS)}")
    module, _, function = TASKS[name].rpartition(".")
    make = getattr(import_module(module), function)
    known = inspect.signature(make).parameters
    for option, value in options.items():
        if option not in known:
            options_text = f"it has {', '.join(known)}" if known else "it has none"
            raise DataError(f"{name}: no option is called {option!r}{_hint(option, known)}; {options_text}")
        wanted = type(known[option].default)
        if type(value) is not wanted:
            raise DataError(f"{name}: {option} is {value!r}; it takes {_TYPES[wanted]}")
    return cast(Task, make(**options))


def examples(
    task: Task,
    difficulty: int,
    seed: int,
    purpose: str,
    indices: Iterable[int],
    accept: Callable[[str], bool] = lambda prompt: True,
) -> list[tuple[str, str]]:
    """Prompts and answers by their numbers, each a function of (seed, purpose, difficulty, number) alone.

    Args:
        task: what is asked.
        difficulty: of all examples.
        seed: of the run.
        purpose: names a stream of examples, such as `round-1` or `test`; the same question can still come up in two
            streams, and does where few exist, unless `accept` separates them.
        indices: the numbers of the examples.
        accept: whether a prompt may be used; among the examples drawn for a number the first such one is taken.

    Raises DataError for a difficulty out of range.
    """
    return [draw_example(task, difficulty, random(seed, purpose, difficulty, index), accept) for index in indices]


def draw_example(
    task: Task, difficulty: int, generator: np.random.Generator, accept: Callable[[str], bool]
) -> tuple[str, str]:
    """The first example from a generator whose prompt is accepted."""
    while True:
        prompt, answer = task.example(difficulty, generator)
        if accept(prompt):
            return prompt, answer


def digits(count: int, generator: np.random.Generator) -> str:
    """`count` decimal digits, independent and uniform; the first may be zero."""
    return generator.integers(48, 58, size=count, dtype=np.uint8).tobytes().decode("ascii")


def check_difficulty(task: str, difficulty: int, unit: str, least: int = 1, most: int | None = None) -> None:
    """Raises DataError unless least ≤ difficulty ≤ most; `unit` is what the difficulty counts."""
    if difficulty < least or (most is not None and difficulty > most):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        raise DataError(f"{task}: difficulty {difficulty} is out of range; it counts {unit}, {wanted}")


_TYPES = {bool: "true or false", int: "a whole number"}


def _hint(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f" ({near})" if near else ""
