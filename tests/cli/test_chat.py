"""Chats and streams as a person meets them: on a terminal, with keys."""

import json
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Command, Forked, Tiny
from tests.terminal import on_terminal

import nanogrove

CTRL_C, CTRL_D = "\x03", "\x04"
ENDLESS = ("--temperature", 0, "--tokens", 10_000_000)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A folder with a run that learned to answer `ab…` with `cd`, and one that says `e` for ever."""
    folder = tmp_path_factory.mktemp("talks")
    for name, answer in (("short", "cd"), ("endless", "e" * 60)):
        rows = [
            {"messages": [{"role": "user", "content": "ab" * (1 + n % 9)}, {"role": "assistant", "content": answer}]}
            for n in range(60)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"type": "chat", "path": str(folder / "rows.jsonl"), "tokenizer": "char"}
        seldom = {name: {"every": 30} for name in ("sample", "save", "evaluate")}
        preset = tiny(model={"block_size": 32}, optimizer={"name": "muon", "lr": 0.05}, **seldom)
        nanogrove.run({**preset, "data": data}, folder / name)
    return folder


def test_ctrl_c_ends_an_answer_and_not_the_chat(talks: Path, forked: Forked) -> None:
    with on_terminal(forked, "chat", talks / "endless", *ENDLESS, cwd=talks) as terminal:
        assert "/help lists commands" in terminal.until("> ")
        terminal.type("abab\r")
        terminal.until("eeeeeeeeee")
        terminal.type(CTRL_C)
        terminal.until("> ")
        terminal.type("/save kept.jsonl\r")
        terminal.until("saved to kept.jsonl")
        terminal.until("> ")
        terminal.press_until(CTRL_C, "(Ctrl-D or /quit leaves)\n> ")
        terminal.type(CTRL_D)
    assert terminal.outcome is not None
    assert terminal.outcome.code == 0
    (row,) = map(json.loads, (talks / "kept.jsonl").read_text().splitlines())
    asked, answered = row["messages"]
    assert asked == {"role": "user", "content": "abab"}
    assert len(answered["content"]) >= 10
    assert set(answered["content"]) == {"e"}, "what was written stays"


@pytest.mark.slow
def test_models_side_by_side_answer_and_each_keeps_its_conversation(talks: Path, forked: Forked) -> None:
    with on_terminal(forked, "chat", "short", "endless", "--temperature", 0, "--tokens", 8, cwd=talks) as terminal:
        terminal.until("> ")
        terminal.type("abab\r")
        assert terminal.until("> ") == "abab\nshort:\ncd\nendless:\neeeeeeee\n"
        terminal.type("ab§\r")
        terminal.until("(character '§' at position")
        terminal.until("> ")
        terminal.type("/temp 1\r")
        assert "no such command: /temp; did you mean /temperature?" in terminal.until("> ")
        terminal.type("/temperature -1\r")
        assert "takes a number, 0 or more, and -1 was given" in terminal.until("> ")
        terminal.type("/temperature 0.5\r")
        assert "(temperature 0.5)" in terminal.until("> ")
        terminal.type("/temperature 0\r")
        terminal.until("> ")
        terminal.type("/reset\r")
        terminal.until("(a new conversation)\n> ")
        terminal.type(7 * "\x1b[A" + "\r")  # arrows up, to the first line
        assert terminal.until("> ").endswith("\nshort:\ncd\nendless:\neeeeeeee\n")
        terminal.type("/save both.jsonl\r")
        terminal.until("> ")
        terminal.type("/reset\r")
        terminal.until("(a new conversation)\n> ")
        terminal.type("/save both.jsonl\r")
        terminal.until("(no answer yet, so there is nothing to save)\n> ")
        terminal.type("/quit\r")
    rows = [json.loads(line) for line in (talks / "both.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["short", "endless"]
    assert [[message["content"] for message in row["messages"]] for row in rows] == [["abab", "cd"], ["abab", "e" * 8]]


def test_lines_may_come_from_a_pipe_and_a_file_is_not_overwritten(
    talks: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (talks / "taken").write_text("a text")
    lines = [
        "abab",
        f"/save {talks}/taken",
        "/save",
        f"/save {talks}/no/folder",
        f"/save {'x' * 300}",
        "/help",
        "ab" * 40,
    ]
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO("\n".join(lines).encode())))
    out = command("chat", talks / "short", "--temperature", 0, "--tokens", 5).out
    assert out.startswith(f"cd\n({talks}/taken: exists already; give another name)\n(/save takes a file")
    assert f"({talks}/no/folder: no such file or directory; see whether" in out
    assert f"({'x' * 300}: file name too long; give a shorter name)" in out
    assert "/temperature T    0 takes the most likely token" in out
    assert "(the model's context of 32 tokens has no room for the first 2 messages)" in out
    assert "(this message is long: of all, the model reads the last 32 tokens)" in out
    assert (talks / "taken").read_text() == "a text"


def test_what_is_no_chat_is_refused_in_a_line(talks: Path, command: Command, tmp_path: Path, tiny: Tiny) -> None:
    nanogrove.run(tiny(train={"steps": 1}), tmp_path / "plain")
    error = command("chat", tmp_path / "plain").error()
    assert "plain: has no chat template" in error
    assert f'continue a text with `nanogrove generate {tmp_path}/plain "Once upon"`' in error
    assert "neither a run nor a checkpoint" in command("chat", talks).error()
    assert "top_p: must be 1 or less" in command("chat", talks / "short", "--top-p", 2).error()


def test_a_text_comes_as_it_is_written_and_stays_after_ctrl_c(talks: Path, forked: Forked) -> None:
    with on_terminal(forked, "generate", talks / "endless", "e", *ENDLESS, "--stop", "ab") as terminal:
        terminal.until("eeeeeeeeee")
        terminal.type(CTRL_C)
        assert "stopped by Ctrl-C" in terminal.until("Ctrl-C") + "Ctrl-C"
    assert terminal.outcome is not None
    assert terminal.outcome.code == 130
    with on_terminal(forked, "generate", talks / "short", "--chat", "abab", "--temperature", 0) as terminal:
        assert terminal.until("decoded in") == "cd\n"


@pytest.mark.slow
def test_a_terminal_shows_what_a_pipe_gets(talks: Path, forked: Forked) -> None:
    arguments = ("generate", talks / "short", "ab", "a", "", "--tokens", 20, "--precision", "float32", "--stop", "db")
    with on_terminal(forked, *arguments) as terminal:
        pass
    assert terminal.shown == forked(*arguments).out


def test_json_says_why_each_text_ended(talks: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("abab\n\nab\r\n")
    arguments = ("--temperature", 0, "--tokens", 6, "--json", "--prompts", tmp_path / "prompts.txt", "--chat")
    rows = [json.loads(line) for line in command("generate", talks / "short", *arguments).out.splitlines()]
    assert rows[0] == {
        "prompt": "abab", "text": "cd", "finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": 3,
    }  # fmt: skip
    assert [row["prompt"] for row in rows] == ["abab", "ab"]
    (row,) = map(json.loads, command("generate", talks / "endless", "e", *arguments[:5]).out.splitlines())
    assert row == {
        "prompt": "e", "text": "eeeeee", "finish_reason": "length", "prompt_tokens": 1, "completion_tokens": 6,
    }  # fmt: skip


def test_prompts_of_a_file_are_decoded_some_at_a_time(
    talks: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogrove.cli.verbs.generate.PROMPTS_AT_ONCE", 2)
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ("a", "b\na"[:1], "a")))
    out = command("generate", talks / "short", "--prompts", rows, "--temperature", 1, "--tokens", 9).out
    lm: Any = nanogrove.load(talks / "short")
    first, second = lm.generate(["a", "b"], 9, temperature=1.0)
    assert out.startswith(f"--- 1 of 3 ---\n{first}\n--- 2 of 3 ---\n{second}\n--- 3 of 3 ---\na")


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("", (), "FILE: holds no prompt; write one per line"),
        (None, (), "FILE: cannot read prompts (No such file or directory); name a text file, a prompt per line"),
        ("\udcff", (), "FILE: not UTF-8 text (invalid start byte at byte 0)"),
        ('{"prompt": "a"}\n[1]', (), 'FILE, line 2: not a row such as {"prompt": "Once upon"}'),
        ("a", ("a",), "prompts are given as words or with --prompts, not both; leave one out"),
        ("a", ("--json", "--confidence"), "--json goes without --confidence; leave one out"),
    ],
)
def test_prompts_that_cannot_be_read_are_said_in_a_line(
    talks: Path, command: Command, tmp_path: Path, content: str | None, arguments: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    error = command("generate", talks / "short", "--prompts", path, *arguments).error()
    assert error == "error: " + message.replace("FILE", str(path))
