"""Small dialogues made here, whose answers are known: opposites of four words, and of the last answer.

    user        What is the opposite of hot, up, wet and new?
    assistant   It is cold, down, dry and old.
    user        And the opposite of that?
    assistant   It is hot, up, wet and new.

The second kind of question needs the last answer. There are 331,776 questions of the first kind, of which 20,000
dialogues ask fewer than a tenth.
"""

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from nanogrove.data.chat.config import ChatOptions, Located
from nanogrove.data.chat.conversations import Conversation, Message
from nanogrove.data.rng import random
from nanogrove.data.sources.pieces import Skipped

PAIRS = (
    *(("hot", "cold"), ("up", "down"), ("new", "old"), ("big", "small"), ("fast", "slow"), ("light", "dark")),
    *(("wet", "dry"), ("near", "far"), ("rich", "poor"), ("high", "low"), ("early", "late"), ("open", "closed")),
)
OPPOSITES = {word: other for pair in PAIRS for word, other in (pair, pair[::-1])}
AGAIN = "And the opposite of that?"
WORDS = re.compile(r"(?:opposite of|It is) (\w+), (\w+), (\w+) and (\w+)[?.]$")


class DialogueConfig(ChatOptions):
    """Dialogues about opposites."""

    type: Literal["dialogues"]
    count: int = Field(20_000, ge=100, le=1_000_000, description="dialogues, all splits together")
    turns: int = Field(3, ge=1, le=100, description="the most questions of a dialogue")
    packed: bool = Field(False, description="several whole dialogues in a window; false: one each, filled up")
    vocab_size: int = Field(512, ge=1, le=10_000_000, description="tokens of a bpe tokenizer trained here")

    has_answers: ClassVar[bool] = True

    def title(self) -> str:
        """The type."""
        return self.type

    def conversations(self, skipped: Skipped) -> Iterator[Located]:
        """The dialogues by their numbers."""
        for number in range(self.count):
            yield Located(f"dialogue {number + 1}", dialogue(random(0, "dialogues", number), self.turns))


def dialogue(generator: np.random.Generator, turns: int) -> Conversation:
    """A random dialogue of one to `turns` questions; half of those after the first are on the last answer."""
    words, messages = list(OPPOSITES), Conversation()
    for turn in range(int(generator.integers(1, turns + 1))):
        asked = _listed([words[n] for n in generator.integers(len(words), size=4)])
        again = turn and generator.integers(2)
        question = AGAIN if again else f"What is the opposite of {asked}?"
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer(messages) or ""})
    return messages


def answer(messages: Sequence[Message]) -> str | None:
    """The true answer to the last message of a dialogue; None where it is not a question about known words."""
    asked = messages[-1]["content"]
    if asked == AGAIN and len(messages) > 1:
        asked = messages[-2]["content"]
    match = WORDS.search(asked)
    if match is None or not OPPOSITES.keys() >= set(match.groups()):
        return None
    return f"It is {_listed([OPPOSITES[word] for word in match.groups()])}."


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
