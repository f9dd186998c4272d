"""The messages of a chat in a cell, as the formats of OpenAI and ShareGPT write them; and as one text."""

from collections.abc import Mapping

KEYS = (("role", "content"), ("from", "value"))  # of a message: who, and what


def messages_of(value: object) -> list[tuple[str, str]] | None:
    """The role and the text of each message of a list; None for anything that is not a list of messages.

    A message is an object of `role` and `content`, or of `from` and `value`; content in parts is joined.
    """
    if not isinstance(value, list) or not value:
        return None
    messages = [message for message in map(_message, value) if message is not None]
    return messages if len(messages) == len(value) else None


def joined_messages(value: object) -> str | None:
    """`User: …`, a blank line, `Assistant: …`, for a list of messages; None for anything else."""
    messages = messages_of(value)
    if messages is None:
        return None
    return "\n\n".join(f"{role[:1].upper()}{role[1:]}: {text}" for role, text in messages if text)


def _message(value: object) -> tuple[str, str] | None:
    if not isinstance(value, Mapping):
        return None
    for role_key, content_key in KEYS:
        role = value.get(role_key)
        if isinstance(role, str) and content_key in value:
            content = _content(value[content_key])
            return None if content is None else (role, content)
    return None


def _content(value: object) -> str | None:
    """The text of a message: empty for null, as of a call of a tool; the texts of its parts, where it has parts."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return "\n".join(part["text"] for part in value if isinstance(part.get("text"), str))
    return None
