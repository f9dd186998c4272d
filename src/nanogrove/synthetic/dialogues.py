"""Small dialogues made here, whose answers are known: the user says which things have which colours, and asks.

    user        The kettle is red. The cloud is blue. What colour is the cloud?
    assistant   The cloud is blue.
    user        And the kettle?
    assistant   The kettle is red.

No answer can be known without the first message, so a model has to look it up there, however many turns ago.
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

THINGS = (
    "basket",
    "bridge",
    "cloud",
    "garden",
    "kettle",
    "ladder",
    "lantern",
    "otter",
    "piano",
    "ship",
    "stone",
    "violin",
)
COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "red", "white", "yellow")
FACT = re.compile(r"The (\w+) is (\w+)\.")
QUESTION = re.compile(r"(?:What colour is|And) the (\w+)\?$")


class DialogueConfig(ChatOptions):
    """Dialogues about the colours of things."""

    type: Literal["dialogues"]
    count: int = Field(20_000, ge=100, le=1_000_000, description="dialogues, all splits together")
    things: tuple[int, int] = Field((2, 4), description="the fewest and the most things of a dialogue")
    packed: bool = Field(False, description="several whole dialogues in a window; false: one each, filled up")
    vocab_size: int = Field(512, ge=1, le=10_000_000, description="tokens of a bpe tokenizer trained here")

    has_answers: ClassVar[bool] = True

    def title(self) -> str:
        """The type."""
        return self.type

    def conversations(self, skipped: Skipped) -> Iterator[Located]:
        """The dialogues by their numbers."""
        for number in range(self.count):
            yield Located(f"dialogue {number + 1}", dialogue(random(0, "dialogues", number), self.things))


def dialogue(generator: np.random.Generator, things: tuple[int, int]) -> Conversation:
    """A random dialogue on at least `things[0]` and at most `things[1]` things, of which one or more are asked for."""
    count = int(generator.integers(things[0], things[1] + 1))
    chosen = [THINGS[n] for n in generator.permutation(len(THINGS))[:count]]
    colours = [COLOURS[n] for n in generator.integers(len(COLOURS), size=count)]
    facts = " ".join(f"The {thing} is {colour}." for thing, colour in zip(chosen, colours, strict=True))
    asked = generator.permutation(count)[: generator.integers(1, count + 1)].tolist()
    messages: Conversation = []
    for turn, number in enumerate(asked):
        question = f"And the {chosen[number]}?" if turn else f"{facts} What colour is the {chosen[number]}?"
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": f"The {chosen[number]} is {colours[number]}."})
    return messages


def answer(messages: Sequence[Message]) -> str | None:
    """The true answer to the last message of a dialogue; None where nothing says it."""
    colours = dict(FACT.findall(messages[0]["content"]))
    asked = QUESTION.search(messages[-1]["content"])
    return f"The {asked[1]} is {colours[asked[1]]}." if asked and asked[1] in colours else None
