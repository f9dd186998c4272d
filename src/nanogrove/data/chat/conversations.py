"""Conversations: lists of messages, read from rows of the formats of OpenAI, ShareGPT and Alpaca by what they hold.

    OpenAI     {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    ShareGPT   {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}
    Alpaca     {"instruction": "…", "input": "…", "output": "…"}

A conversation is a system message or none, then messages of the user and the assistant in turn, the user first.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from nanogrove.data.sources.messages import messages_of

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}
COLUMNS = ("messages", "conversations", "conversation")  # of lists of messages
QUESTION, CONTEXT, ANSWERS = "instruction", "input", ("output", "response")  # the columns of Alpaca's format
SHAPES = "messages, conversations, or instruction with output"


class Message(TypedDict):
    """What one side says: `role` is system, user or assistant."""

    role: str
    content: str


Conversation = list[Message]


class BadConversationError(ValueError):
    """A conversation that cannot be used; the text says why, as a clause."""


def conversation_of(row: Mapping[str, object], column: str | None = None) -> Conversation:
    """The conversation that a row is; `column` names that of the messages.

    Raises BadConversationError for a row of another shape, and as `checked_messages` does.
    """
    columns = COLUMNS if column is None else (column,)
    for name in columns:
        if row.get(name) is not None:
            return checked_messages(row[name])
    answer = next((row[name] for name in ANSWERS if name in row), None) if column is None else None
    question, context = row.get(QUESTION), row.get(CONTEXT)
    if isinstance(question, str) and isinstance(answer, str):
        asked = f"{question}\n\n{context}" if isinstance(context, str) and context.strip() else question
        return checked_messages([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
    wanted = SHAPES if column is None else repr(column)
    raise BadConversationError(f"not a conversation, without {wanted}")


def is_conversation(row: Mapping[str, object]) -> bool:
    """Whether `conversation_of` makes a conversation of a row."""
    try:
        conversation_of(row)
    except BadConversationError:
        return False
    return True


def checked_messages(value: object, answered: bool = True) -> Conversation:
    """The messages of a list with their usual roles.

    Raises BadConversationError for anything else, an empty list, a message without text, an unknown role, roles out of
    order, and, where it is to be `answered`, for a conversation in which the assistant says nothing.
    """
    if isinstance(value, list) and not value:
        raise BadConversationError("an empty conversation")
    read = messages_of(value)
    if read is None:
        raise BadConversationError("not a list of messages, each of role and content")
    messages: Conversation = []
    for number, (role, content) in enumerate(read, start=1):
        if role.strip().lower() not in ROLES:
            raise BadConversationError(f"message {number} has the role {role[:40]!r}, none of system, user, assistant")
        if not content.strip():
            raise BadConversationError(f"message {number} has no text")
        messages.append({"role": ROLES[role.strip().lower()], "content": content})
    _check_order(messages)
    if answered and all(message["role"] != "assistant" for message in messages):
        raise BadConversationError("no message of the assistant")
    return messages


def _check_order(messages: Sequence[Message]) -> None:
    """Raises BadConversationError where the user and the assistant do not speak in turn, the user first."""
    expected = "user"
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role == "system" and number == 1:
            continue
        if role != expected:
            raise BadConversationError(f"roles out of order: message {number} is the {role}'s, not the {expected}'s")
        expected = {"user": "assistant", "assistant": "user"}[role]
