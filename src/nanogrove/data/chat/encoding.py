"""Conversations as tokens: the vocabulary with its special tokens, which tokens are scored, and prompts for answers."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from nanogrove.data.chat.conversations import ASKERS, BadConversationError, Message, checked_messages, texts_of
from nanogrove.data.chat.rendering import Rendered
from nanogrove.data.chat.template import Renderer
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import DataError
from nanogrove.waits import waiting

CONVERSATIONS_AT_ONCE = 1000  # that are made tokens in one call, which nothing interrupts
WHERE = "the chat template"  # in messages on that of a model
ANSWER: list[Message] = [{"role": "assistant", "content": "a"}]


class Encoded(NamedTuple):
    """A conversation as tokens: `ids [T]` int32, and which of them the assistant writes, `scored [T]` bool."""

    ids: np.ndarray
    scored: np.ndarray


def encode(tokenizer: Tokenizer, conversations: Sequence[Rendered]) -> list[Encoded]:
    """Conversations as tokens; a token is the assistant's where it shares a character with a span of the assistant's.

    Raises DataError for a text that the vocabulary cannot express.
    """
    encoded: list[Encoded] = []
    with waiting("making tokens of conversations", len(conversations)) as wait:
        while len(encoded) < len(conversations):
            part = conversations[len(encoded) : len(encoded) + CONVERSATIONS_AT_ONCE]
            tokens = tokenizer.encode_marked([rendered.text for rendered in part])
            encoded += [_encoded(*each, rendered) for each, rendered in zip(tokens, part, strict=True)]
            wait.done = len(encoded)
    return encoded


def _encoded(ids: np.ndarray, offsets: np.ndarray, rendered: Rendered) -> Encoded:
    scored = np.zeros(len(ids), dtype=bool)
    for begin, end in rendered.spans:
        scored |= (offsets[:, 0] < end) & (offsets[:, 1] > begin)
    return Encoded(ids.astype(np.int32), scored)


def spelled_by(messages: Sequence[Message], special_tokens: Iterable[str]) -> str | None:
    """A special token that the text of a message spells, which would end or begin a message; None without one."""
    texts = list(texts_of(messages))
    return next((token for token in special_tokens if any(token in text for text in texts)), None)


def end_of_answer(rendered: Rendered, tokenizer: Tokenizer, where: str) -> int:
    """The special token that ends what the assistant writes, as it does in this conversation.

    Raises DataError, naming `where`, for a template without one, as a model would not learn where to stop.
    """
    written = rendered.text[slice(*rendered.spans[-1])] if rendered.spans else ""
    ids = tokenizer.special_tokens()
    last = max(ids, key=written.rfind, default=None)
    if last is None or last not in written:
        raise DataError(
            f"{where}: no special token ends what the assistant writes; put one within the template's generation "
            "block, and name it in data.special_tokens, unless it is spelled as <|end|>"
        )
    return ids[last]


class ChatPrompt(NamedTuple):
    """The tokens after which the assistant writes, and the token that ends what it writes."""

    ids: list[int]
    end: int


class ChatPrompts:
    """Prompts for the assistant's answers, by a tokenizer's chat template; `close` ends the process of one, if any."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self._renderer = None if template is None else Renderer(template, tokenizer.end_token, WHERE)

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        """The prompt for the answer to a conversation.

        Raises DataError for messages that are none, end with the assistant's or hold what the vocabulary cannot
        express, and without a chat template.
        """
        if self._renderer is None:
            raise DataError("this model has no chat template; train one with data.type=chat, or use generate")
        tokenizer = self._tokenizer
        try:
            checked = checked_messages(list(messages), answered=False)
        except BadConversationError as error:
            raise DataError(f"chat: {error}") from None
        if checked[-1]["role"] not in ASKERS:
            raise DataError(f"chat: the last message is the {checked[-1]['role']}'s; end with one of the user")
        if spelled := spelled_by(checked, tokenizer.special_tokens()):
            raise DataError(f"chat: a message spells the special token {spelled}; leave it out")
        tokenizer.encode_batch([message["content"] for message in checked])  # whose errors are of a message alone
        try:
            text = self._renderer.prompt(checked)
            answered = self._renderer.render([*checked, *ANSWER])
        except BadConversationError as error:
            raise DataError(f"chat: {error}") from None
        end = end_of_answer(answered, tokenizer, WHERE)
        return ChatPrompt(tokenizer.encode_marked([text])[0][0].tolist(), end)

    def close(self) -> None:
        """Ends the process of the template, where it has one; another prompt starts it anew."""
        if self._renderer is not None:
            self._renderer.close()


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> ChatPrompt:
    """The prompt for the assistant's answer to a conversation. Raises what `ChatPrompts.prompt` does."""
    with closing(ChatPrompts(tokenizer)) as prompts:
        return prompts.prompt(messages)


def answer_end(tokenizer: Tokenizer) -> int:
    """The token that ends what the assistant writes, by the tokenizer's chat template.

    Raises DataError for a template that is refused, or without such a token.
    """
    assert tokenizer.chat_template is not None
    with Renderer(tokenizer.chat_template, tokenizer.end_token, WHERE) as renderer:
        try:
            answered = renderer.render([{"role": "user", "content": "a"}, *ANSWER])
        except BadConversationError as error:
            raise DataError(f"{WHERE}: {error}") from None
    return end_of_answer(answered, tokenizer, WHERE)
