"""Copying and reversing digits: `12345=` → `12345`, or `54321`.

After Lee et al. 2025 (arXiv 2502.01612). The paper's code never starts with a zero; here all digits are uniform, so
that a prompt of n digits is one of 10^n equally likely ones.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nanogrove.synthetic.tasks import check_difficulty, digits

_PROMPT = re.compile("([0-9]+)=")


@dataclass(frozen=True)
class Copying:
    """The answer is the prompt's digits, taken forward (`stride` 1) or backward (−1). Difficulty is their number."""

    name: str
    stride: int
    symbols: ClassVar[str] = "0123456789="

    def example(self, difficulty: int, generator: np.random.Generator) -> tuple[str, str]:
        """`difficulty` uniform digits. Raises DataError for fewer than one."""
        check_difficulty(self.name, difficulty, "digits")
        text = digits(difficulty, generator)
        return f"{text}=", text[:: self.stride]

    def answer(self, prompt: str) -> str | None:
        """The digits before `=`, in the task's order; None for a prompt that is not digits and `=`."""
        read = _PROMPT.fullmatch(prompt)
        return None if read is None else read[1][:: self.stride]

    def correct(self, prompt: str, answer: str) -> bool:
        """Whether `answer` is the one true answer."""
        return self.answer(prompt) == answer

    def longest(self, difficulty: int) -> int:
        """2n + 1 characters, always. Raises DataError below one digit."""
        check_difficulty(self.name, difficulty, "digits")
        return 2 * difficulty + 1


def copy() -> Copying:
    """`12345=` → `12345`."""
    return Copying("copy", 1)


def reverse() -> Copying:
    """`12345=` → `54321`."""
    return Copying("reverse", -1)
