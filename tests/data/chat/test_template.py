"""Templates make texts with spans as `transformers` does; a hostile one is refused in a line, and runs nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanogrove.data.chat import rendering
from nanogrove.data.chat.conversations import BadConversationError, Conversation
from nanogrove.data.chat.rendering import BadTemplateError, Template
from nanogrove.data.chat.template import PLAIN, Renderer, spelled_tokens, template_of
from nanogrove.errors import DataError

TALK: Conversation = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Bye"},
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def written(template: str, messages: Conversation = TALK) -> list[str]:
    with Renderer(template, "<|endoftext|>") as renderer:
        text, spans = renderer.render(messages)
    return [text[begin:end] for begin, end in spans]


def test_the_built_in_template() -> None:
    with Renderer(PLAIN, "<|endoftext|>") as renderer:
        text, spans = renderer.render(TALK)
        assert text == "<|user|>Hi<|end|><|assistant|>Hello<|end|><|user|>And?<|end|><|assistant|>Bye<|end|>"
        assert [text[begin:end] for begin, end in spans] == ["Hello<|end|>", "Bye<|end|>"]
        assert renderer.prompt(TALK[:1]) == "<|user|>Hi<|end|><|assistant|>"
    assert set(spelled_tokens(PLAIN)) == {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"}


def test_a_template_of_a_file_without_the_tag_is_read_by_prefixes(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(CHATML)
    assert written(template_of(str(tmp_path / "chat.jinja"))) == ["Hello<|im_end|>\n", "Bye<|im_end|>\n"]
    with pytest.raises(DataError, match=r"put {% generation %} and {% endgeneration %} around these in it"):
        written("{{ messages | length }}" + CHATML)


def test_spans_are_those_of_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tagged = CHATML.replace("{{ '<|im_start|>'", "{% generation %}\n{{ '<|im_start|>'").replace(
        "{% endfor %}", "{% endgeneration %}\n{% endfor %}"
    )
    for template in (PLAIN, tagged):
        theirs: Any = render_jinja_template([TALK], chat_template=template, return_assistant_tokens_mask=True)  # type: ignore[list-item]
        with Renderer(template, "<|endoftext|>") as renderer:
            assert [[each] for each in renderer.render(TALK)] == list(theirs)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for %}", "line 1: "),
        ("{{ ''.__class__.__mro__ }}", "it reaches into objects"),
        ("{{ messages.append(1) }}", "it reaches into objects"),
        ("{{ raise_exception.__globals__ }}", "it reaches into objects"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "it reaches into objects"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_bad_template_is_refused(template: str, problem: str) -> None:
    with pytest.raises(BadTemplateError, match=problem):
        Template(template, "").render(TALK)


def test_a_process_that_never_ends_or_eats_memory_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    command = [*rendering_command(0.2)]
    monkeypatch.setattr("nanogrove.data.chat.template.RENDER_COMMAND", command)
    with pytest.raises(DataError, match=r"^data.template: this chat template is refused \(it takes more than"):
        written(endless)
    greedy = "{% set n = namespace(s='x') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
    with pytest.raises(DataError, match=r"refused .*mend it, or take plain"):
        written(greedy)


def rendering_command(seconds: float) -> list[str]:
    import sys

    code = f"from nanogrove.data.chat import rendering as r; r.CPU_SECONDS = {seconds}; r.main()"
    return [sys.executable, "-P", "-c", code]


def test_a_template_may_refuse_a_conversation() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    with Renderer(template, "") as renderer:
        with pytest.raises(BadConversationError, match=r"the template refuses it \(no system\)"):
            renderer.render([{"role": "system", "content": "x"}, *TALK])
        assert renderer.render(TALK).spans


def test_files_that_are_no_templates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; data"):
        template_of(str(tmp_path / "missing"))
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not a chat template"):
        template_of(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(b"x" * (1 << 19))
    with pytest.raises(DataError, match="has 256 KiB at most"):
        template_of(str(tmp_path / "a"))


def test_what_a_template_may_use() -> None:
    template = "{{ messages | tojson }}{{ eos_token }}{% if tools is not none %}tools{% endif %}{{ strftime_now }}"
    assert Template(template, "<e>").render(TALK[:1]).text == json.dumps(TALK[:1]) + "<e>"
    with pytest.raises(BadTemplateError, match="more than"):
        Template("{{ 'x' * n }}".replace("n", str(rendering.MAX_CHARACTERS + 1)), "").render(TALK)


def test_content_cannot_forge_the_marks() -> None:
    talk: Any = [{"role": "user", "content": "\0("}, {"role": "assistant", "content": "\0)"}]
    assert written(PLAIN, talk) == ["\0)<|end|>"]


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
CALLING: Conversation = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
    {"role": "tool", "name": "weather", "content": "22 C"},
    {"role": "tool", "name": "weather", "content": ""},
    {"role": "assistant", "content": "Warm"},
]
WITH_TOOLS = (  # as Qwen's, in which messages of tools share a turn of the user
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ message.content }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>{% endgeneration %}"
    "{% elif message.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "<tool_response>{{ message.content }}</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>{% endif %}"
    "{% else %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_calls_of_tools_are_the_assistants_and_what_tools_say_is_not() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    theirs: Any = render_jinja_template([CALLING], chat_template=WITH_TOOLS, return_assistant_tokens_mask=True)  # type: ignore[list-item]
    with Renderer(WITH_TOOLS, "<|endoftext|>") as renderer:
        text, spans = renderer.render(CALLING)
    assert ([text], [spans]) == tuple(theirs)
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'
    assert [text[begin:end] for begin, end in spans] == [f"{call}{call}<|im_end|>", "Warm<|im_end|>"]
    untagged = WITH_TOOLS.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert written(untagged, CALLING) == [f"{call}{call}<|im_end|>", "Warm<|im_end|>"]


@pytest.mark.parametrize("template", [PLAIN, CHATML])
def test_a_template_that_cannot_write_calls_leaves_such_a_conversation_out(template: str) -> None:
    with pytest.raises(BadConversationError, match="it calls tools, and the template has no tool_calls; take one that"):
        written(template, CALLING)
