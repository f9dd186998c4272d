"""Renders conversations by a chat template in Jinja, as `transformers` does; also as a process of its own.

A template may come from a stranger. Jinja's sandbox keeps it from reaching into objects, and limits that the system
enforces keep a process of its own from taking all time or memory: no list of forbidden operations is ever complete.
`python -m nanogrove.data.chat.rendering` reads the template as a line of JSON, then lines of [messages, asked], and
answers each with a line: `text` and spans, or a problem.

The tag `generation` surrounds what the assistant writes. Templates have `messages`, `add_generation_prompt`,
`eos_token`, `tools` and `documents`, which are none, and `raise_exception`; no clock, since data are functions of
seeds.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nanogrove.data.chat.conversations import BadConversationError, Message

CPU_SECONDS = 2.0  # of one conversation
MEMORY_BYTES = 1 << 29  # of the process
MAX_CHARACTERS = 1 << 24  # of a conversation as text
_NONCE = os.urandom(8).hex()  # so that no text can hold the marks
BEGIN, END = f"\0{_NONCE}(", f"\0{_NONCE})"  # around what the assistant writes, until they are taken out


class Rendered(NamedTuple):
    """A conversation as text, and the spans of characters that the assistant writes."""

    text: str
    spans: list[tuple[int, int]]


class RefusedConversationError(BadConversationError):
    """A conversation that a template does not take, such as one with a system message; the text says why."""


class BadTemplateError(ValueError):
    """A template that is not one, that reaches into objects, or that takes too long; the text says why."""


class _RaisedError(TemplateError):
    """What a template raises itself."""


class _Generation(Extension):
    """The tag `generation`."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body of the tag, between marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        first, last = (nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (BEGIN, END))
        return [first, *body, last]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, where access to what is unsafe is an error, even where nothing is done with it."""

    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        """Raises SecurityError."""
        raise SecurityError(f"{attribute!r} of {type(obj).__name__!r}")


class Template:
    """A compiled template. Raises BadTemplateError for a text that is not a template."""

    def __init__(self, text: str, eos_token: str) -> None:
        extensions: list[str | type[Extension]] = [_Generation, "jinja2.ext.loopcontrols"]
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        self.eos_token = eos_token
        try:
            self.template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise BadTemplateError(f"line {error.lineno}: {error.message}") from None
        except (RecursionError, MemoryError, OverflowError):
            raise BadTemplateError("nested too deeply") from None

    def render(self, messages: Sequence[Message], asked: bool = False) -> Rendered:
        """The conversation as text; where it is `asked`, up to where the assistant is to write.

        Raises RefusedConversationError where the template itself raises, and BadTemplateError for other errors in it.
        """
        try:
            marked = self.template.render(
                messages=messages, add_generation_prompt=asked, eos_token=self.eos_token, tools=None, documents=None
            )
        except _RaisedError as error:
            raise RefusedConversationError(f"the template refuses it ({error})") from None
        except SecurityError as error:
            raise BadTemplateError(f"it reaches into objects ({error})") from None
        except Exception as error:  # whatever its expressions raise
            raise BadTemplateError(f"{type(error).__name__}: {error}") from None
        return _without_marks(marked)


def _without_marks(marked: str) -> Rendered:
    """The text without marks, and the spans between them. Raises BadTemplateError where it is too long."""
    if len(marked) > MAX_CHARACTERS:
        raise BadTemplateError(f"it makes more than {MAX_CHARACTERS:,} characters of a conversation")
    text, *parts = marked.split(BEGIN)
    spans = []
    for part in parts:
        written, _, rest = part.partition(END)
        spans.append((len(text), len(text) + len(written)))
        text += written + rest
    return Rendered(text, spans)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """JSON as it is; Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: object) -> NoReturn:
    raise _RaisedError(str(message))


def main() -> None:
    """Renders what standard input holds until its end, or until a limit ends the process."""
    import resource  # Windows has none, and imports this module all the same

    text, eos_token = json.loads(sys.stdin.readline())
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, even within an operation
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing is written to files
    with suppress(ValueError, OSError):  # macOS knows no such limit; elsewhere a lower one may be set
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        template = Template(text, eos_token)
    except BadTemplateError as error:
        _answer("bad", str(error))
        return
    _answer("ready", "")
    for line in sys.stdin:
        messages, asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            _answer("text", *template.render(messages, asked))
        except RefusedConversationError as error:
            _answer("refused", str(error))
        except BadTemplateError as error:
            _answer("bad", str(error))


def _answer(kind: str, *values: object) -> None:
    print(json.dumps([kind, *values]), flush=True)


if __name__ == "__main__":
    main()
