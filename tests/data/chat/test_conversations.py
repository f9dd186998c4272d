"""Rows of three formats become conversations, and others are refused with the reason."""

from typing import Any

import pytest

from nanogrove.data.chat.conversations import BadConversationError, checked_messages, conversation_of
from nanogrove.data.chat.encoding import spelled_by

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
GPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
CALLS: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "<|end|>"}}]}
TOOL: dict[str, Any] = {"role": "tool", "content": "22 C"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"id": 7, "conversations": GPT},
        {"conversation": TALK, "text": "x"},
        {"messages": None, "conversations": GPT},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, TALK[1]]},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"instruction": "Hi", "response": "Hello"},
    ],
)
def test_formats_are_read_by_what_they_hold(row: dict[str, Any]) -> None:
    assert conversation_of(row) == TALK


def test_context_a_system_message_and_another_column() -> None:
    assert conversation_of({"instruction": "Sum", "input": "1 2", "output": "3"})[0]["content"] == "Sum\n\n1 2"
    system = {"role": "developer", "content": "Be brief."}
    assert conversation_of({"talk": [system, *TALK, TALK[0]]}, "talk") == [
        {"role": "system", "content": "Be brief."},
        *TALK,
        TALK[0],
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "an empty conversation"),
        ("Hi", "not a list of messages, each of role and content"),
        ([{"who": "me"}], "not a list of messages, each of role and content"),
        (TALK[:1], "no message of the assistant"),
        ([{"role": "system", "content": "x"}], "no message of the assistant"),
        (TALK[::-1], "roles out of order: message 1 is the assistant's, not the user's"),
        ([TALK[0], TALK[0]], "roles out of order: message 2 is the user's, not the assistant's"),
        ([*TALK, {"role": "system", "content": "x"}], "roles out of order: message 3 is the system's, not the user's"),
        ([{"role": "x", "content": "x"}], "message 1 has the role 'x', none of system, user, assistant, tool"),
        ([TOOL, *TALK, TOOL], "roles out of order: message 1 is the tool's, not the user's"),
        ([*TALK, TOOL], "roles out of order: message 3 is the tool's, not the user's"),
        ([TALK[0], CALLS, TALK[1]], "roles out of order: message 3 is the assistant's, not the tool's"),
        ([TALK[0], {**CALLS, "tool_calls": "x"}], "message 2 has tool_calls that are not a list of calls in JSON"),
        (
            [TALK[0], {**CALLS, "tool_calls": [{1j: 2}]}],
            "message 2 has tool_calls that are not a list of calls in JSON",
        ),
        ([TALK[0], {"role": "assistant", "content": None}], "message 2 has no text"),
    ],
)
def test_what_cannot_be_used_says_why(value: Any, problem: str) -> None:
    with pytest.raises(BadConversationError) as error:
        checked_messages(value)
    assert str(error.value) == problem


def test_calls_of_tools_are_read_and_what_they_spell_is_seen() -> None:
    named: dict[str, Any] = {**TOOL, "name": "f", "tool_call_id": "1"}
    assert checked_messages([TALK[0], CALLS, named, TOOL, {**TALK[1], "tool_calls": None}]) == [
        TALK[0],
        {"role": "assistant", "content": "", "tool_calls": CALLS["tool_calls"]},
        named,
        TOOL,
        TALK[1],
    ]
    assert spelled_by(checked_messages([TALK[0], CALLS]), ["<|end|>"]) == "<|end|>"


@pytest.mark.parametrize("row", [{"text": "Hi"}, {"instruction": "Hi"}, {"instruction": 1, "output": "x"}])
def test_a_row_of_another_shape(row: dict[str, Any]) -> None:
    with pytest.raises(BadConversationError, match="without messages, conversations, or instruction with output"):
        conversation_of(row)
    with pytest.raises(BadConversationError, match="not a conversation, without 'talk'"):
        conversation_of({"messages": TALK}, "talk")
