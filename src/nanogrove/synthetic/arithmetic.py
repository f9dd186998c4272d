"""Addition and multiplication, written so that each digit of an answer needs little beyond what precedes it.

Formats of Lee et al. 2025 (arXiv 2502.01612). Difficulty is a number of digits n. Both operands have n, as in that
paper's rounds of self-improvement; with `equal=False` the longer one has n and each pair of lengths whose longer is n
is equally likely, as among their base examples, whose two lengths are drawn apart. An operand starts with 1-9, its
other digits are uniform. Prompts whose operands start with zeros have answers too: every digit counts.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nanogrove.synthetic.tasks import check_difficulty, digits

MAX_DIGITS = 2000
"""Of an operand: Python turns integers of up to 4,300 digits into text, a product has 2 × 2,000."""
_SUM = re.compile(f"([0-9]{{1,{MAX_DIGITS}}})\\+([0-9]{{1,{MAX_DIGITS}}})=")
_PRODUCT = re.compile(f"([0-9]{{1,{MAX_DIGITS}}})\\*([0-9]{{1,{MAX_DIGITS}}})=")


@dataclass(frozen=True)
class Addition:
    """`12+45=` → `57`; with `stride` −1 each number is written with its least digit first, `21+54=` → `75`.

    `padded` fills the sum with zeros, at its most significant end, to one digit more than the longer operand.
    """

    name: str
    stride: int
    padded: bool
    equal: bool
    symbols: ClassVar[str] = "+0123456789="

    def example(self, difficulty: int, generator: np.random.Generator) -> tuple[str, str]:
        """A sum of two numbers of `difficulty` digits. Raises DataError outside 1 to `MAX_DIGITS` digits."""
        check_difficulty(self.name, difficulty, "digits", most=MAX_DIGITS)
        first, second = _operands(difficulty, self.equal, generator)
        return f"{first[:: self.stride]}+{second[:: self.stride]}=", self._sum(first, second)

    def answer(self, prompt: str) -> str | None:
        """The sum in the task's format; None for a prompt that is not two numbers with `+` between and `=` after."""
        read = _SUM.fullmatch(prompt)
        return None if read is None else self._sum(read[1][:: self.stride], read[2][:: self.stride])

    def correct(self, prompt: str, answer: str) -> bool:
        """Whether `answer` is the one true answer, padding included."""
        return self.answer(prompt) == answer

    def longest(self, difficulty: int) -> int:
        """3n + 3 characters: two operands, two signs, and a sum of n + 1. Raises DataError as `example` does."""
        check_difficulty(self.name, difficulty, "digits", most=MAX_DIGITS)
        return 3 * difficulty + 3

    def _sum(self, first: str, second: str) -> str:
        width = max(len(first), len(second)) + 1 if self.padded else 1
        return str(int(first) + int(second)).rjust(width, "0")[:: self.stride]


@dataclass(frozen=True)
class Multiplication:
    """`21*43=` → `840+0630=8040`, 12 × 34 = 48 + 360 = 408: every number with its least digit first.

    For a of m digits and b of n, the answer holds b's n partial products, b's digit times a times its power of ten,
    joined by `+`; after each but the first and the last, in brackets, the sum so far; then `=` and the product. The
    partial product of digit i, from 0, and the sum after it are padded to m + i + 1 digits, the product to m + n:
    123 × 456 is `321*654=` → `8370+05160(88860)+002940=880650`.

    In the paper rounds go through pairs of lengths, (1, 6), (6, 1), (2, 6) … (6, 6); here a difficulty is n by n.
    """

    equal: bool = True
    name: ClassVar[str] = "multiplication"
    symbols: ClassVar[str] = "()*+0123456789="

    def example(self, difficulty: int, generator: np.random.Generator) -> tuple[str, str]:
        """A product of two numbers of `difficulty` digits. Raises DataError outside 1 to `MAX_DIGITS` digits."""
        check_difficulty(self.name, difficulty, "digits", most=MAX_DIGITS)
        first, second = _operands(difficulty, self.equal, generator)
        return f"{first[::-1]}*{second[::-1]}=", self._steps(first, second)

    def answer(self, prompt: str) -> str | None:
        """The steps and the product; None for a prompt that is not two numbers with `*` between and `=` after."""
        read = _PRODUCT.fullmatch(prompt)
        return None if read is None else self._steps(read[1][::-1], read[2][::-1])

    def correct(self, prompt: str, answer: str) -> bool:
        """Whether every step and the product are right; a right product after a wrong step is not."""
        return self.answer(prompt) == answer

    def longest(self, difficulty: int) -> int:
        """3n² + 5n − 3 characters, 9 for one digit. Raises DataError as `example` does."""
        check_difficulty(self.name, difficulty, "digits", most=MAX_DIGITS)
        return 9 if difficulty == 1 else 3 * difficulty**2 + 5 * difficulty - 3

    def _steps(self, first: str, second: str) -> str:
        """The answer for two numbers written with their greatest digit first."""
        multiplicand, total, steps = int(first), 0, ""
        for power, digit in enumerate(reversed(second)):
            partial = int(digit) * multiplicand * 10**power
            total += partial
            width = len(first) + power + 1
            steps += f"{'+' if power else ''}{_backward(partial, width)}"
            if 0 < power < len(second) - 1:
                steps += f"({_backward(total, width)})"
        return f"{steps}={_backward(total, len(first) + len(second))}"


def reversed_addition(equal: bool = True) -> Addition:
    """`21+54=` → `750`: 12 + 45 = 057, least digit first, padded to one digit more than the operands."""
    return Addition("reversed-addition", -1, padded=True, equal=equal)


def addition(padded: bool = False, equal: bool = True) -> Addition:
    """`12+45=` → `57`, or `057` when `padded`; the paper's code offers both, its published runs do not pad."""
    return Addition("addition", 1, padded=padded, equal=equal)


def multiplication(equal: bool = True) -> Multiplication:
    """`21*43=` → `840+0630=8040`."""
    return Multiplication(equal)


def _operands(longer: int, equal: bool, generator: np.random.Generator) -> tuple[str, str]:
    """Two numbers, greatest digit first, the longer of `longer` digits."""
    lengths = longer, longer
    if not equal:
        pair = int(generator.integers(2 * longer - 1))  # the other is 1, …, longer; or the first is 1, …, longer − 1
        lengths = (longer, pair + 1) if pair < longer else (pair - longer + 1, longer)
    leading = generator.integers(49, 58, size=2, dtype=np.uint8).tobytes().decode("ascii")
    rest = digits(sum(lengths) - 2, generator)
    return leading[0] + rest[: lengths[0] - 1], leading[1] + rest[lengths[0] - 1 :]


def _backward(number: int, width: int) -> str:
    return str(number)[::-1].ljust(width, "0")
