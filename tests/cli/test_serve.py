"""`nanogrove serve`: what is wrong is said in one line, before any model is read."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Command, Tiny

from nanogrove.config.overrides import resolve
from nanogrove.runs.train import train


def test_without_the_extra_the_line_that_installs_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    wanted = "error: serve needs starlette and uvicorn; pip install 'nanogrove[serve]'"
    assert command("serve", "runs/mine").error() == wanted


def test_a_port_in_use_is_said_in_a_line(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = command("serve", "runs/mine", "--port", port).error()
    assert line.startswith(f"error: port {port} of 127.0.0.1 is in use; choose another with --port")


@pytest.mark.parametrize(
    ("arguments", "key", "line"),
    [
        (["a/mine", "b/mine"], None, "two runs are called mine; serve them apart, each with a --port of its own"),
        (["mine", "--host", "0.0.0.0"], None, "--host 0.0.0.0: other machines reach it, so clients need a key: set"),
        (["mine", "--host", "::"], None, "--host ::: other machines reach it"),
        (["mine", "--host", "203.0.113.7", "--port", "0"], "k", "--host 203.0.113.7: this machine has no such address"),
        (["mine", "--host", "no.such.invalid"], "k", "--host no.such.invalid: no such address"),
        (["mine"], "", "NANOGROVE_API_KEY: a key consists of printable ASCII characters"),
        (["mine"], "né", "NANOGROVE_API_KEY: a key consists of printable ASCII characters"),
        (["mine", "--port", "0"], None, "mine: neither a run nor a checkpoint"),
        (["mine", "--rows", "0"], None, "--rows: input should be greater than or equal to 1"),
        ([], None, "runs is missing; see `nanogrove serve --help`"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], key: str | None, line: str
) -> None:
    monkeypatch.delenv("NANOGROVE_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("NANOGROVE_API_KEY", key)
    assert line in command("serve", *arguments).error()


@pytest.mark.slow
def test_a_run_is_served_until_ctrl_c(tiny: Tiny, tmp_path: Path) -> None:
    import openai

    import nanogrove

    for _ in train(resolve(tiny()), tmp_path / "mine"):
        pass
    words = [sys.executable, "-m", "nanogrove", "serve", str(tmp_path / "mine"), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split()[0]
        assert line == f"{url} serves mine; Ctrl-C ends it\n"
        with openai.OpenAI(base_url=url, api_key="none") as client:
            answer = client.completions.create(model="mine", prompt="The", max_tokens=20, seed=1, temperature=0.8)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, "stopped by Ctrl-C\n")
    assert "The" + answer.choices[0].text == nanogrove.load(tmp_path / "mine").generate("The", 20, seed=1)
