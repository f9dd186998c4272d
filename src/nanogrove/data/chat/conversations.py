"""Conversations: lists of messages, read from rows of the formats of OpenAI, ShareGPT and Alpaca by what they hold.

    OpenAI     {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    ShareGPT   {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}
    Alpaca     {"instruction": "…", "input": "…", "output": "…"}

A conversation is a system message or none, then messages of the user and the assistant in turn, the user first. In
OpenAI's format a message of the assistant may call tools, in `tool_calls`; messages of tools and one of the assistant
follow. Calls are what the assistant writes, and what tools say is not.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NotRequired

from typing_extensions import TypedDict

from nanogrove.data.sources.messages import messages_of

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "tool": "tool",
}
ASKERS = ("user", "tool")  # whose messages the assistant answers
COLUMNS = ("messages", "conversations", "conversation")  # of lists of messages
QUESTION, CONTEXT, ANSWERS = "instruction", "input", ("output", "response")  # the columns of Alpaca's format
SHAPES = "messages, conversations, or instruction with output"


class Message(TypedDict):
    """What one side says: `role` is system, user, assistant or tool. A tool has a `name` and answers a call."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]


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
    if read is None or not isinstance(value, list):
        raise BadConversationError("not a list of messages, each of role and content")
    messages: Conversation = []
    for number, ((role, content), raw) in enumerate(zip(read, value, strict=True), start=1):
        if role.strip().lower() not in ROLES:
            raise BadConversationError(
                f"message {number} has the role {role[:40]!r}, none of system, user, assistant, tool"
            )
        message: Message = {"role": ROLES[role.strip().lower()], "content": content}
        if message["role"] == "assistant" and raw.get("tool_calls"):
            message["tool_calls"] = _checked_calls(raw["tool_calls"], number)
        elif not content.strip() and message["role"] != "tool":
            raise BadConversationError(f"message {number} has no text")
        if message["role"] == "tool":
            if isinstance(raw.get("name"), str):
                message["name"] = raw["name"]
            if isinstance(raw.get("tool_call_id"), str):
                message["tool_call_id"] = raw["tool_call_id"]
        messages.append(message)
    _check_order(messages)
    if answered and all(message["role"] != "assistant" for message in messages):
        raise BadConversationError("no message of the assistant")
    return messages


def _checked_calls(calls: object, number: int) -> list[dict[str, Any]]:
    """The calls of tools of a message. Raises BadConversationError for anything but a list of objects of JSON."""
    try:
        if isinstance(calls, list) and all(isinstance(call, dict) and json.dumps(call) for call in calls):
            return calls
    except (TypeError, ValueError, RecursionError):  # such as a date in a table
        pass
    raise BadConversationError(f"message {number} has tool_calls that are not a list of calls in JSON")


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """All that messages hold as text, the calls of tools as JSON."""
    for message in messages:
        yield message["content"]
        further = {key: value for key, value in message.items() if key not in ("role", "content")}
        if further:
            yield json.dumps(further, ensure_ascii=False)


def _check_order(messages: Sequence[Message]) -> None:
    """Raises BadConversationError where the user and the assistant do not speak in turn, the user first.

    A message that calls tools is followed by one of a tool or more, and by the assistant's.
    """
    before, expected = "", "user"
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role == "system" and number == 1:
            continue
        if role != expected and not (role == before == "tool"):
            raise BadConversationError(f"roles out of order: message {number} is the {role}'s, not the {expected}'s")
        after_answer = "tool" if "tool_calls" in message else "user"
        before, expected = role, after_answer if role == "assistant" else "assistant"
