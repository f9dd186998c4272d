"""Chat templates: the built-in one, those of files, and the text that a template makes of a conversation.

A template is text in Jinja, as `transformers` keeps it in `chat_template.jinja`. The built-in one is rendered here;
any other may be a stranger's and is rendered by a process of its own, which cannot take all time or memory.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from nanogrove.data.chat.conversations import Message
from nanogrove.data.chat.rendering import CPU_SECONDS, RefusedConversationError, Rendered, Template
from nanogrove.data.processes import ended
from nanogrove.data.sources.files import io_errors_as_data_errors
from nanogrove.errors import DataError
from nanogrove.json_reading import parse_json
from nanogrove.paths import expanded

PLAIN_NAME = "plain"
PLAIN = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}<|system|>{{ message.content }}<|end|>"
    "{% elif message.role == 'user' %}<|user|>{{ message.content }}<|end|>"
    "{% else %}<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEMPLATE_FILE = "chat_template.jinja"  # beside a model
MAX_TEMPLATE_BYTES = 1 << 18  # the longest published ones have 30 kB
SPELLED = re.compile(r"<\|[^<>|\s'\"{}]{1,40}\|>")  # a special token, as most templates write theirs
GENERATION = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")
RENDER_COMMAND = [sys.executable, "-P", "-m", "nanogrove.data.chat.rendering"]


def template_of(name: str) -> str:
    """The text of the built-in template, `plain`, or of a file. Raises DataError for a file that cannot be read."""
    if name == PLAIN_NAME:
        return PLAIN
    path = expanded(name)
    if not path.is_file():
        raise DataError(f"{name}: no such file; data.template is plain, or a file such as chat_template.jinja")
    with io_errors_as_data_errors(path), path.open("rb") as file:
        return template_text(file.read(MAX_TEMPLATE_BYTES + 1), path)


def template_text(data: bytes, where: Path | str) -> str:
    """The text of a template. Raises DataError for what is too long or not UTF-8."""
    if len(data) > MAX_TEMPLATE_BYTES:
        raise DataError(f"{where}: a chat template has {MAX_TEMPLATE_BYTES >> 10} KiB at most")
    try:
        return data.decode("utf-8")
    except ValueError as error:
        raise DataError(f"{where}: not a chat template ({error})") from None


def configured_template(data: bytes, where: Path) -> str | None:
    """The chat template in a `tokenizer_config.json`, of several the one named `default`; None where there is none.

    Nothing else of the file is read. Raises DataError for what is not JSON, and for several without a default.
    """
    try:
        content = parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    template = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(template, list):
        named = [each for each in template if isinstance(each, dict) and each.get("name") == "default"]
        if not named:
            raise DataError(f"{where}: no template of chat_template is named default; put one in {TEMPLATE_FILE}")
        template = named[0].get("template", "")
    if template is None:
        return None
    if not isinstance(template, str):
        raise DataError(f"{where}: chat_template is not text; put the template in {TEMPLATE_FILE}")
    return template_text(template.encode("utf-8", "surrogatepass"), where)


def spelled_tokens(template: str) -> list[str]:
    """The special tokens that a template spells, as `<|user|>`, each once."""
    return list(dict.fromkeys(SPELLED.findall(template)))


class Renderer:
    """Makes conversations texts by one template; a context, since it may have a process, which starts when needed.

    `eos_token` is what a template writes by that name. Raises DataError for a template that is refused, naming `where`.
    """

    def __init__(self, template: str, eos_token: str, where: str = "data.template") -> None:
        self.template, self.eos_token, self.where = template, eos_token, where
        self.tagged = GENERATION.search(template) is not None
        self.here = Template(PLAIN, eos_token) if template == PLAIN else None
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if self.here is None:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, where there is one."""
        if self.process is not None:
            self.process.kill()
            self._ended()

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant is to write. Raises RefusedConversationError, and DataError as below."""
        return self._render(messages, asked=True).text

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The text of a conversation and the spans that the assistant writes.

        Without the tag `generation` such a span is what the conversation up to a message of the assistant has beyond
        the prompt for it. Raises RefusedConversationError for a conversation that the template does not take, and
        DataError for a template that is refused or ends its process.
        """
        whole = self._render(messages)
        if self.tagged:
            return whole
        spans = []
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                before, after = self.prompt(messages[:number]), self._render(messages[: number + 1]).text
                if not (after.startswith(before) and whole.text.startswith(after)):
                    raise DataError(
                        f"{self.where}: it writes a message otherwise once others follow, so nobody knows which tokens "
                        "are the assistant's; put {% generation %} and {% endgeneration %} around these in it"
                    )
                spans.append((len(before), len(after)))
        return Rendered(whole.text, spans)

    def _render(self, messages: Sequence[Message], asked: bool = False) -> Rendered:
        if any("tool_calls" in message for message in messages) and "tool_calls" not in self.template:
            raise RefusedConversationError("it calls tools, and the template has no tool_calls; take one that has")
        if self.here is not None:
            return self.here.render(messages, asked)
        process = self.process or self._start()
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; the empty answer below shows it
            process.stdin.write(json.dumps([messages, asked]) + "\n")
            process.stdin.flush()
        kind, *values = self._answer()
        if kind == "refused":
            raise RefusedConversationError(one_line(values[0]))
        text, spans = values
        return Rendered(text, [(begin, end) for begin, end in spans])

    def _start(self) -> "subprocess.Popen[str]":
        """The process, once it has compiled the template."""
        if find_spec("resource") is None:
            raise DataError(f"{self.where}: this system cannot limit what a template takes; set data.template=plain")
        self.process = subprocess.Popen(
            RENDER_COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches this process, which ends that one
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([self.template, self.eos_token]) + "\n")
            self.process.stdin.flush()
        self._answer()
        return self.process

    def _answer(self) -> list[Any]:
        """A line of the process. Raises DataError where it says that the template is bad, or has ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            status = self._ended()
            why = "it takes too much memory, or crashed its process"
            if status == -signal.SIGPROF:
                why = f"it takes more than {CPU_SECONDS:g} seconds for a conversation"
            raise self._refusal(why)
        kind, *values = json.loads(line)
        if kind == "bad":
            self.close()
            raise self._refusal(one_line(values[0]))
        return [kind, *values]

    def _refusal(self, why: str) -> DataError:
        return DataError(f"{self.where}: this chat template is refused ({why}); mend it, or take plain")

    def _ended(self) -> int:
        """Waits for the process to end and returns its status."""
        assert self.process is not None
        process, self.process = self.process, None
        return ended(process)


def one_line(text: str) -> str:
    """A text of a stranger's on one line, cut where it is long."""
    return " ".join(text.split())[:200]
