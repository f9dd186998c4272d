"""Messages of a chat as one text: until chats have tokens of their own, the role stands before each message."""

from collections.abc import Mapping


def joined_messages(value: object) -> str | None:
    """`User: …`, a blank line, `Assistant: …`, for a list of messages; None for anything else.

    A message is an object of `role` and `content`, or of `from` and `value`; content in parts is joined.
    """
    if not isinstance(value, list) or not value:
        return None
    texts = [_message(one) for one in value]
    if None in texts:
        return None
    return "\n\n".join(text for text in texts if text)


def _message(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return None
    for role_key, content_key in (("role", "content"), ("from", "value")):
        role = value.get(role_key)
        if isinstance(role, str) and content_key in value:
            content = _content(value[content_key])
            return None if content is None else f"{role[:1].upper()}{role[1:]}: {content}" if content else ""
    return None


def _content(value: object) -> str | None:
    """The text of a message: empty for null, as of a call of a tool; the texts of its parts, where it has parts."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return "\n".join(part["text"] for part in value if isinstance(part.get("text"), str))
    return None
