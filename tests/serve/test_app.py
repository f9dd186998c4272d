"""The server, driven by the client that it is for: texts of `generate`, streams, errors as the client's exceptions."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import openai
import pytest
import torch
from tests.serve.test_engine import make

from nanogrove.data.chat.template import PLAIN, spelled_tokens
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.serve import app as apps
from nanogrove.serve.app import Desk, Rules, Served, application
from nanogrove.serve.engine import Engine, opened
from nanogrove.serve.listening import Server, listen


class Running(NamedTuple):
    """A server, and a client of it."""

    url: str
    port: int
    client: openai.OpenAI
    engines: dict[str, Engine]


@contextmanager
def running(
    models: dict[str, LanguageModel], room: int = 4, waiting: int = 64, key: str | None = None, most: int = 100
) -> Iterator[Running]:
    """A server in a thread, until the block ends."""
    with ExitStack() as stack:
        engines = {name: stack.enter_context(opened(lm, room, waiting)) for name, lm in models.items()}
        served = {name: Served(lm, engines[name], 0) for name, lm in models.items()}
        address = listen("127.0.0.1", 0, key)
        stack.callback(address.socket.close)
        desk = Desk(served, Rules(address.hosts, key, most))
        serving = Server(application(desk), desk.worker.stop)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [address.socket]})
        thread.start()
        client = openai.OpenAI(base_url=f"{address.url}/v1", api_key=key or "none", max_retries=0, timeout=20)
        stack.callback(client.close)
        try:
            yield Running(address.url, address.socket.getsockname()[1], client, engines)
        finally:
            serving.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return make()


@pytest.fixture(scope="module")
def talker() -> LanguageModel:
    """A model with the built-in chat template."""
    base = make().tokenizer.for_chat(PLAIN, spelled_tokens(PLAIN))
    sizes: dict[str, Any] = {"block_size": 64, "n_layer": 1, "n_head": 2, "n_embd": 16}
    model = GPT(ModelConfig(vocab_size=base.vocab_size, **sizes)).initialize(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return LanguageModel(model, base)


@pytest.fixture(scope="module")
def here(lm: LanguageModel, talker: LanguageModel) -> Iterator[Running]:
    with running({"mine": lm, "talker": talker}) as running_server:
        yield running_server


def raw(port: int, text: bytes) -> bytes:
    """What a server answers to bytes, up to where it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def get(port: int, path: str, *headers: str, host: str | None = None) -> tuple[int, bytes]:
    """Status and body of a page."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close", *headers]
    head, _, body = raw(port, "\r\n".join([*lines, "", ""]).encode()).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_models_are_listed_and_looked_up(here: Running) -> None:
    assert [model.id for model in here.client.models.list()] == ["mine", "talker"]
    assert here.client.models.retrieve("mine").owned_by == "nanogrove"
    with pytest.raises(openai.NotFoundError, match="no model is called 'minx'; did you mean mine"):
        here.client.models.retrieve("minx")


def test_a_completion_is_the_text_of_generate(here: Running, lm: LanguageModel) -> None:
    options: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95}
    for seed, stop in ((1, []), (2, ["ba", "e"])):
        answer = here.client.completions.create(
            model="mine", prompt="bad", max_tokens=30, seed=seed, stop=stop, extra_body={"top_k": 7}, **options
        )
        text = answer.choices[0].text
        assert "bad" + text == lm.generate("bad", 30, seed=seed, stop=stop, top_k=7, **options)
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage.prompt_tokens == 3
        assert answer.usage.total_tokens == 3 + answer.usage.completion_tokens


def test_a_stream_holds_the_same_text_and_ends_with_its_usage(here: Running, lm: LanguageModel) -> None:
    pieces = list(
        here.client.completions.create(
            model="mine",
            prompt="bad",
            max_tokens=40,
            seed=5,
            temperature=0.8,
            stop="fade",
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "bad" + "".join(piece.choices[0].text for piece in pieces[:-1]) == lm.generate(
        "bad", 40, seed=5, stop="fade"
    )
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 2) + ["length"]
    assert (pieces[-1].choices, pieces[-1].usage.completion_tokens) == ([], 40)


def test_chats_are_the_answers_of_chat_whole_and_as_a_stream(here: Running, talker: LanguageModel) -> None:
    messages: Any = [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    wanted = talker.chat([{"role": "system", "content": "be"}, {"role": "user", "content": "a"}], 30, seed=3)
    asked: dict[str, Any] = {"model": "talker", "messages": messages, "seed": 3, "temperature": 0.8}
    answer = here.client.chat.completions.create(max_completion_tokens=30, **asked)
    assert (answer.choices[0].message.content, answer.choices[0].message.role) == (wanted, "assistant")
    pieces = list(here.client.chat.completions.create(max_tokens=30, stream=True, **asked))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == wanted
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices[0].finish_reason == answer.choices[0].finish_reason


def test_log_probabilities_are_those_of_the_model(here: Running, lm: LanguageModel) -> None:
    (wanted,) = lm.continuations(["bad"], 20, seed=7, temperature=1.0)
    answer = here.client.completions.create(model="mine", prompt="bad", max_tokens=20, seed=7, logprobs=2)
    scores = answer.choices[0].logprobs
    assert scores.tokens == wanted.tokens
    probabilities = torch.tensor(scores.token_logprobs).exp()
    torch.testing.assert_close(probabilities, torch.tensor(wanted.probabilities))
    assert all(len(each) == 2 for each in scores.top_logprobs)
    assert scores.text_offset[:3] == [0, 1, 2]
    chat = here.client.chat.completions.create(
        model="talker", messages=[{"role": "user", "content": "a"}], max_tokens=3, logprobs=True, top_logprobs=2
    )
    entries = chat.choices[0].logprobs.content
    assert all(len(entry.top_logprobs) == 2 and bytes(entry.bytes or []).decode() == entry.token for entry in entries)


MESSAGE: Any = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("error", "message", "body"),
    [
        (openai.NotFoundError, "no model is called 'you'; models here are mine, talker", {"model": "you"}),
        (openai.BadRequestError, "temperature: must be 0 or more, and -1.0 was given", {"temperature": -1.0}),
        (
            openai.BadRequestError,
            "max_tokens: must be 100 or less on this server, and 101 was given",
            {"max_tokens": 101},
        ),
        (openai.BadRequestError, "n: must be 1, and 2 was given", {"n": 2}),
        (openai.BadRequestError, "presence_penalty: must be 0 or less, and 0.5 was given", {"presence_penalty": 0.5}),
        (openai.BadRequestError, "the prompt has 17 tokens, and the context of mine holds 16", {"prompt": "a" * 17}),
        (openai.BadRequestError, "character 'z' at position 1 is not among the 9 characters", {"prompt": "az"}),
        (openai.BadRequestError, "heat: is not a field that is served here", {"extra_body": {"heat": 1}}),
        (openai.BadRequestError, "seed: must be 0 or more, and -1 was given", {"seed": -1}),
        (openai.BadRequestError, "stop: must be a text of 1 to 256 characters, or a list", {"stop": ""}),
        (openai.BadRequestError, "prompt: must be a text, or a list of one text", {"prompt": [1, 2]}),
    ],
)
def test_what_is_wrong_is_said_in_a_line_as_an_error_of_the_client(
    here: Running, error: type[openai.APIStatusError], message: str, body: dict[str, Any]
) -> None:
    with pytest.raises(error) as raised:
        here.client.completions.create(**{"model": "mine", "prompt": "a", **body})
    assert message in raised.value.message
    assert "\n" not in raised.value.message


def test_a_model_without_a_chat_template_says_so(here: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="this model has no chat template"):
        here.client.chat.completions.create(model="mine", messages=MESSAGE)
    with pytest.raises(openai.BadRequestError, match=r"spells the special token <\|end\|>"):
        here.client.chat.completions.create(model="talker", messages=[{"role": "user", "content": "<|end|>"}])


def test_many_clients_at_once_each_get_the_text_of_their_seed(here: Running, lm: LanguageModel) -> None:
    def ask(seed: int) -> str:
        asked: dict[str, Any] = {"model": "mine", "prompt": "ab"[: 1 + seed % 2], "max_tokens": 16 + seed % 5}
        if seed % 3:
            return str(here.client.completions.create(seed=seed, **asked).choices[0].text)
        stream = here.client.completions.create(seed=seed, stream=True, **asked)
        return "".join(piece.choices[0].text for piece in stream)

    with ThreadPoolExecutor(24) as pool:
        texts = list(pool.map(ask, range(48)))
    for seed, text in enumerate(texts):
        prompt = "ab"[: 1 + seed % 2]
        assert prompt + text == lm.generate(prompt, 16 + seed % 5, seed=seed, temperature=1.0)


def test_too_many_requests_are_refused_for_now_and_a_vanished_client_frees_its_place(lm: LanguageModel) -> None:
    slow = make()
    slow.tokenizer.end = -1  # nothing ends a text
    with running({"mine": slow}, room=1, waiting=1, most=1_000_000) as here:
        asked: dict[str, Any] = {"model": "mine", "prompt": "a", "max_tokens": 1_000_000}
        stream = here.client.completions.create(stream=True, **asked)
        next(iter(stream))
        body = json.dumps(asked).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        waiting = socket.create_connection(("127.0.0.1", here.port))
        waiting.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        engine = here.engines["mine"]
        until(lambda: engine.waiting == 1)
        with pytest.raises(openai.RateLimitError, match="1 requests wait already; send this one again later") as raised:
            here.client.completions.create(**asked)
        assert raised.value.response.headers["retry-after"] == "1"
        stream.close()
        until(lambda: engine.waiting == 0)  # the one that waited has the row, or gets it within this step
        waiting.close()
        ended = 'nanogrove_requests_total{model="mine",end="cancelled"} 2'  # counted after the row is free
        until(lambda: ended in get(here.port, "/metrics")[1].decode())
        assert engine.active == 0


def until(true: Any, seconds: float = 60) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_server_that_ends_leaves_no_trace_and_ends_streams(
    lm: LanguageModel, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = make()
    slow.tokenizer.end = -1
    with running({"mine": slow}, most=1_000_000) as here:
        stream = iter(here.client.completions.create(model="mine", prompt="a", max_tokens=1_000_000, stream=True))
        next(stream)
        waiting = ThreadPoolExecutor(1).submit(list, stream)
    with pytest.raises(openai.APIError, match="the server is ending; send this request again later"):
        waiting.result(10)
    assert "Traceback" not in capfd.readouterr().err


def test_a_second_signal_changes_nothing() -> None:
    serving = Server(application(Desk({}, Rules(None, None, 1))), lambda: None)
    for _ in range(3):
        serving.handle_exit(signal.SIGINT, None)
    assert (serving.should_exit, serving.force_exit) == (True, False)


def test_figures_count_what_was_done(lm: LanguageModel) -> None:
    with running({'mi"ne': lm}) as here:
        for _ in range(3):
            here.client.completions.create(model='mi"ne', prompt="bad", max_tokens=5, stop="zz")
        text = get(here.port, "/metrics")[1].decode()
    assert 'nanogrove_prompt_tokens_total{model="mi\\"ne"} 9' in text
    assert 'nanogrove_first_token_seconds_count{model="mi\\"ne"} 3' in text
    assert 'nanogrove_rows{model="mi\\"ne"} 4' in text
    assert text.count("# TYPE nanogrove_request_seconds histogram") == 1


def test_a_page_that_came_by_another_name_or_from_another_site_is_refused(here: Running) -> None:
    assert get(here.port, "/v1/models")[0] == 200
    assert get(here.port, "/v1/models", host="LOCALHOST:1")[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "[::1", " "):
        assert get(here.port, "/v1/models", host=host)[0] in (400, 421)
    assert get(here.port, "/v1/models", f"Origin: http://127.0.0.1:{here.port}")[0] == 200
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{here.port + 1}", "http://["):
        assert get(here.port, "/v1/models", f"Origin: {origin}")[0] == 403


def test_with_a_key_nobody_comes_in_without_it(lm: LanguageModel) -> None:
    with running({"mine": lm}, key="open-sesame") as here:
        assert here.client.completions.create(model="mine", prompt="a", max_tokens=2).model == "mine"
        with pytest.raises(openai.AuthenticationError, match="this server needs its API key"):
            openai.OpenAI(base_url=f"{here.url}/v1", api_key="open-sesam", max_retries=0).models.list()
        for header in ((), ("Authorization: Bearer",), ("Authorization: Basic open-sesame",), ("Authorization: \xe9",)):
            assert get(here.port, "/metrics", *header)[0] == 401
            assert get(here.port, "/nowhere", *header)[0] == 401


def test_bodies_are_bounded_in_size_type_and_time(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    json_head = f"{head}Content-Type: application/json\r\n"
    large = raw(here.port, f"{json_head}Content-Length: {apps.MAX_BODY_BYTES + 1}\r\n\r\n".encode() + b" " * 1_048_577)
    assert large.startswith(b"HTTP/1.1 413")
    assert raw(here.port, f"{head}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}".encode())[9:12] == b"415"
    monkeypatch.setattr(apps, "BODY_SECONDS", 0.05)
    assert raw(here.port, f"{json_head}Content-Length: 9\r\n\r\n{{".encode())[9:12] == b"408"


def test_a_page_that_there_is_not_is_an_error_of_the_client(here: Running) -> None:
    assert get(here.port, "/v1/files/../../etc/passwd")[0] == 404
    status, body = get(here.port, "/v1/completions")
    assert status == 405
    assert "this server has /v1/models" in json.loads(body)["error"]["message"]
