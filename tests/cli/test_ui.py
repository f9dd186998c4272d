"""`nanogrove ui`: what is wrong is said in one line."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.conftest import Command


def test_without_the_extra_the_line_that_installs_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert command("ui").error() == "error: ui needs starlette and uvicorn; pip install 'nanogrove[ui]'"


def test_a_port_in_use_and_a_missing_folder_are_said_in_a_line(command: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = command("ui", tmp_path, "--port", port).error()
    assert line.startswith(f"error: port {port} of 127.0.0.1 is in use; choose another with --port")
    assert "none: is not a folder; name one that holds runs" in command("ui", tmp_path / "none").error()


@pytest.mark.slow
def test_the_printed_address_is_served_until_ctrl_c(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "nanogrove", "ui", str(tmp_path), "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.match(
            r"(http://127\.0\.0\.1:\d+/\?key=\S+) shows the runs; Ctrl-C ends the page, and no run$", line
        )
        assert address is not None, line
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert "No run is here yet" in opener.open(address[1]).read().decode()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (output, errors) == ("", "stopped by Ctrl-C\n")
