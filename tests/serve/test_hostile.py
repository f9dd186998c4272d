"""Hostile requests, 500 in the slow tests: each is answered or closed, nothing dies, no trace is shown or file read."""

import json
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.serve.test_app import Running, running, until
from tests.serve.test_engine import make

from nanogrove.serve import app as apps
from nanogrove.serve import listening

FIELDS = [
    *("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p"),
    *("repetition_penalty", "seed", "stop", "stream", "stream_options", "n", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "user", "echo", "best_of", "suffix", "logprobs", "top_logprobs", "response_format", "tools"),
    "no_repeat_ngram",
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, "", "a", "ab" * 40, "\0", "é漢😀"),
    *("\u202e", "..", "../../etc/passwd", "a" * 5000, [], {}, [[]], ["a"], ["a", "b"], [None], [1, 2], {"a": 1}),
    *({"type": "text"}, {"type": "json_object"}, {"include_usage": True}, [{"role": "user", "content": "a"}]),
    *([{"role": "user", "content": {"a": []}}], [{"role": "system"}], [{"role": "tool", "content": "a"}] * 50),
    [{"role": "user", "content": "<|end|><|assistant|>"}],
]
BODIES = [
    *(b"", b"{", b"null", b"[]", b'"a"', b"{}", b"\xff\xfe", b'{"model": NaN}', b'{"a":' * 5000, b"[" * 100_000),
    *(b'{"model":"mine","prompt":"\\ud800"}', b'{"model":"mine","seed":' + b"9" * 5000 + b"}", b"\0" * 1000),
    *(b'{"model":"mine","model":"other"}', b'{"model":"mine","prompt":"a","temperature":1e999}', b" " * 70_000),
]
HEADERS = [
    *("Host: evil.example", "Host:", "Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: a"),
    *(
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Content-Type: text/plain",
        "Upgrade: websocket",
    ),
    *("Origin: null", "X: " + "a" * 70_000, "\xe9: \xe9", "Authorization: Bearer " + "a" * 5000, "Connection: upgrade"),
    *("Content-Type: application/json; charset=utf-16", "Expect: 100-continue", "Cookie: a=b", ": a", "Host: [::1"),
    *("Content-Encoding: gzip", "Range: bytes=0-", "X-Forwarded-For: 127.0.0.1", "Accept: text/html"),
]
PATHS = [
    *("/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/..%2f..%2fetc%2fpasswd", "/", "/metrics"),
    *("/v1/models/%00", "//etc/passwd", "/../../etc/passwd", "/v1/models/" + "a" * 9000, "*", "/v1/completions?a=b"),
    *("/%ff%fe", "/openapi.json", "http://evil.example/v1/models", "/v1/completions/", "\xe9"),
]


def hostile(seed: int) -> bytes:
    """A request that a careful client would not send, whole or cut short."""
    rng = random.Random(seed)
    method = rng.choice(["POST"] * 6 + ["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "HEAD", "X" * 300, "post"])
    path = rng.choice(PATHS[:2] if rng.random() < 0.6 else PATHS)
    if rng.random() < 0.6:
        asked = {"model": "mine", "prompt": "a", "max_tokens": 3} if path == PATHS[0] else {"model": "mine"}
        asked |= {rng.choice(FIELDS): rng.choice(VALUES) for _ in range(rng.randint(1, 4))}
        body = json.dumps(asked, ensure_ascii=rng.random() < 0.5).encode()
    else:
        body = rng.choice(BODIES)
    headers = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    for _ in range(rng.choice([0, 0, 1, 2])):
        header = rng.choice(HEADERS)
        headers = [each for each in headers if each.partition(":")[0] != header.partition(":")[0]] + [header]
    if rng.random() < 0.05:
        headers = headers * 60
    request = "\r\n".join([f"{method} {path} HTTP/{rng.choice(['1.1', '1.1', '1.0', '9'])}", *headers, "", ""])
    sent = request.encode("latin-1") + body
    return sent[: rng.randrange(len(sent))] if rng.random() < 0.1 else sent


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Running]:
    """A server whose log goes to what `capfd` reads."""
    monkeypatch.setattr(apps, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(listening, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(listening, "IDLE_SECONDS", 0.2)
    with running({"mine": make()}, room=4, waiting=8) as running_server:
        yield running_server


def answered(port: int, requests: list[bytes]) -> list[bytes]:
    """What the server answers to requests that are all sent before any answer is read."""
    connections = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in requests]
    answers = []
    for connection, request in zip(connections, requests, strict=True):
        with suppress(OSError):  # it has answered before all was sent
            connection.sendall(request)
    for connection in connections:
        parts = []
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                parts.append(part)
        connection.close()
        answers.append(b"".join(parts))
    return answers


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_hostile_requests_are_answered_and_nothing_dies(
    here: Running, capfd: pytest.CaptureFixture[str], count: int
) -> None:
    statuses: dict[int, int] = {}
    for first in range(0, count, 50):
        for answer in answered(here.port, [hostile(seed) for seed in range(first, first + 50)]):
            assert b"Traceback" not in answer
            assert b"root:" not in answer
            status = int(answer.split()[1]) if answer else 0
            statuses[status] = statuses.get(status, 0) + 1
    assert statuses.get(500, 0) == 0, statuses
    assert {400, 404, 405, 421, *((200, 408, 415) if count == 500 else ())} <= set(statuses), statuses
    wanted = here.client.completions.create(model="mine", prompt="a", max_tokens=5, seed=1).choices[0].text
    assert "a" + wanted == make().generate("a", 5, seed=1, temperature=1.0)
    engine = here.engines["mine"]
    until(lambda: (engine.active, engine.waiting) == (0, 0))  # requests of clients that are gone end at the next step
    assert "Traceback" not in capfd.readouterr().err


def test_a_connection_that_says_nothing_is_closed(here: Running) -> None:
    with socket.create_connection(("127.0.0.1", here.port), timeout=10) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: local")
        assert connection.recv(100) == b""


@pytest.mark.parametrize("rest", ["zz\r\n{}", "2\r\n{}zz"])
def test_a_body_that_is_not_http_ends_its_connection(
    here: Running, capfd: pytest.CaptureFixture[str], rest: str
) -> None:
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Transfer-Encoding: chunked\r\n\r\n{rest}".encode()
    assert all(answer.startswith(b"HTTP/1.1 400") for answer in answered(here.port, [request] * 3))
    at_once = request.replace(b"application/json", b"text/plain")  # which is refused before the connection is gone
    assert all(answer.startswith(b"HTTP/1.1 400") for answer in answered(here.port, [at_once] * 3))
    body = b'{"model": "mine", "prompt": "a", "stream": true}'
    begun = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    (answer,) = answered(here.port, [begun + b"not HTTP\r\n\r\n"])  # a second request, after a whole one
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(here.client.models.list().data) == 1  # by now all of it was done
    assert "Traceback" not in capfd.readouterr().err
