"""What is sent to clients: texts, pieces of a stream, log-probabilities and usage, under OpenAI's names."""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer
from nanogrove.serve.engine import Scored, Update

Json = dict[str, Any]


class Shape(NamedTuple):
    """How an interface of OpenAI's words an answer.

    Args:
        prefix: Of the answer's id.
        whole_kind: What an answer calls itself that comes at once.
        piece_kind: What a piece of a stream calls itself.
        whole: A choice, from its text.
        piece: A choice of a stream, from its text, and whether it is the first one.
        log_probabilities: Those of tokens, from where their text begins in the answer.
    """

    prefix: str
    whole_kind: str
    piece_kind: str
    whole: Callable[[str], Json]
    piece: Callable[[str, bool], Json]
    log_probabilities: Callable[[Tokenizer, Sequence[Scored], int], Json]


class Answer:
    """The answer to one request, in pieces or whole."""

    def __init__(self, shape: Shape, model: str, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        self._shape, self._tokenizer, self._prompt_tokens = shape, tokenizer, prompt_tokens
        self._head = {"id": f"{shape.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._offset, self._first = 0, True

    def whole(self, updates: Sequence[Update]) -> Json:
        """The answer, from all its updates."""
        choice = self._shape.whole("".join(update.text for update in updates))
        self._complete(choice, updates)
        usage = self._usage(updates[-1].tokens)
        return {**self._head, "object": self._shape.whole_kind, "choices": [choice], "usage": usage}

    def piece(self, updates: Sequence[Update]) -> Json | None:
        """A piece of the stream, from updates that follow those before; None while they say nothing."""
        text = "".join(update.text for update in updates)
        if not (text or updates[-1].end or any(update.scored for update in updates)):
            return None
        choice = self._shape.piece(text, self._first)
        self._first = False
        self._complete(choice, updates)
        return {**self._head, "object": self._shape.piece_kind, "choices": [choice]}

    def usage(self, tokens: int) -> Json:
        """The last piece of a stream whose client asks for its usage."""
        return {**self._head, "object": self._shape.piece_kind, "choices": [], "usage": self._usage(tokens)}

    def _complete(self, choice: Json, updates: Sequence[Update]) -> None:
        """Adds to a choice what both interfaces have."""
        scored = [update.scored for update in updates if update.scored is not None]
        parts = self._shape.log_probabilities(self._tokenizer, scored, self._offset) if scored else None
        self._offset += sum(len(named(self._tokenizer, each.token)) for each in scored)
        choice |= {"index": 0, "logprobs": parts, "finish_reason": updates[-1].end}

    def _usage(self, tokens: int) -> Json:
        prompt = self._prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


def named(tokenizer: Tokenizer, token: int) -> str:
    """What a token writes, or the name of the end of text."""
    return END_OF_TEXT if token == tokenizer.end else tokenizer.decode([token])


def event(value: object) -> bytes:
    """A server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}\n\n".encode()


def _completion_scores(tokenizer: Tokenizer, scored: Sequence[Scored], offset: int) -> Json:
    names, offsets = [named(tokenizer, each.token) for each in scored], []
    for name in names:
        offsets.append(offset)
        offset += len(name)
    return {
        "tokens": names,
        "token_logprobs": [each.log_probability for each in scored],
        # Of tokens that write the same, such as halves of characters, the likeliest is named.
        "top_logprobs": [{named(tokenizer, i): value for i, value in reversed(each.likeliest)} for each in scored],
        "text_offset": offsets,
    }


def _chat_scores(tokenizer: Tokenizer, scored: Sequence[Scored], offset: int) -> Json:
    def entry(token: int, value: float) -> Json:
        name = named(tokenizer, token)
        return {"token": name, "logprob": value, "bytes": list(name.encode())}

    content = [
        {**entry(each.token, each.log_probability), "top_logprobs": [entry(*pair) for pair in each.likeliest]}
        for each in scored
    ]
    return {"content": content, "refusal": None}


COMPLETION = Shape(
    prefix="cmpl",
    whole_kind="text_completion",
    piece_kind="text_completion",
    whole=lambda text: {"text": text},
    piece=lambda text, first: {"text": text},
    log_probabilities=_completion_scores,
)
CHAT = Shape(
    prefix="chatcmpl",
    whole_kind="chat.completion",
    piece_kind="chat.completion.chunk",
    whole=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    piece=lambda text, first: {"delta": {"role": "assistant", "content": text} if first else {"content": text}},
    log_probabilities=_chat_scores,
)
