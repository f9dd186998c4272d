"""Answers to a conversation, as preferences and scores hold them: prompts and texts by the chat template.

prompt and answers   {"prompt": [user…], "chosen": [assistant], "rejected": [assistant]}
whole conversations  {"chosen": [user…, assistant], "rejected": [user…, assistant]}, which begin alike
"""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from nanogrove.data.chat.conversations import ASKERS, BadConversationError, Conversation, checked_messages
from nanogrove.data.chat.encoding import spelled_by
from nanogrove.data.chat.template import Renderer
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import DataError


def whole_conversations(prompt: object, answers: Sequence[object]) -> list[Conversation]:
    """The conversation that each answer makes of a prompt, which may be null where answers hold all.

    Raises BadConversationError as `checked_messages` does, and where one does not end with the assistant's message.
    """
    before = prompt if isinstance(prompt, list) else []
    conversations = []
    for answer in answers:
        messages = checked_messages([*before, *answer] if isinstance(answer, list) and answer else answer)
        if messages[-1]["role"] != "assistant":
            raise BadConversationError("an answer that does not end with the assistant's message")
        conversations.append(messages)
    return conversations


def prompts_and_texts(
    renderer: Renderer, forbidden: Sequence[str], conversations: Sequence[Conversation], asked: int | None
) -> list[tuple[str, str]]:
    """Each conversation as the text of its prompt, and of what follows.

    Args:
        renderer: of the chat template.
        forbidden: special tokens, which no message may spell.
        conversations: answers to one prompt.
        asked: how many messages the prompt has; those that all conversations begin with where None.

    Raises BadConversationError for conversations without a prompt or an answer, or that the template does not take, and
    DataError for a template that writes a prompt otherwise once it is answered.
    """
    if asked is None:
        alike = takewhile(
            lambda messages: all(message == messages[0] for message in messages), zip(*conversations, strict=False)
        )
        asked = min(sum(1 for _ in alike), *(len(messages) - 1 for messages in conversations))
    sides = []
    for messages in conversations:
        prompt = messages[:asked]
        if not prompt or prompt[-1]["role"] not in ASKERS:
            raise BadConversationError("no prompt that ends with the user's message")
        if spelled := spelled_by(messages, forbidden):
            raise BadConversationError(f"a message spells the special token {spelled}")
        begin, whole = renderer.prompt(prompt), renderer.render(messages).text
        if not whole.startswith(begin):
            raise DataError(f"{renderer.where}: it writes a prompt otherwise once an answer follows; take another one")
        sides.append((begin, whole[len(begin) :]))
    return sides


def encode_answers(
    tokenizer: Tokenizer, sides: Sequence[tuple[str, str]], size: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The tokens of prompts and of what follows each, where every `size` consecutive sides share a prompt.

    Where tokens of a prompt change once an answer follows, the answer begins with the first that differs, as in `trl`.
    """
    prompts = [ids for ids, _ in tokenizer.encode_marked([prompt for prompt, _ in sides])]
    wholes = [ids for ids, _ in tokenizer.encode_marked([prompt + text for prompt, text in sides])]
    shared = [_common_prefix(prompt, whole) for prompt, whole in zip(prompts, wholes, strict=True)]
    counts = [min(shared[n // size * size : n // size * size + size]) for n in range(len(shared))]
    begins = [prompt[:count] for prompt, count in zip(prompts, counts, strict=True)]
    return begins, [whole[count:] for whole, count in zip(wholes, counts, strict=True)]


def _common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two texts have in common where they begin."""
    size = min(len(first), len(second))
    differ = np.flatnonzero(first[:size] != second[:size])
    return int(differ[0]) if len(differ) else size
