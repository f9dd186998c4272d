"""`nanogrove serve` under load, and beside llama.cpp's server on the same weights.

    python benchmarks/serving.py                    64 clients against one after the other, and what a client waits
    python benchmarks/serving.py --llama-cpp        also tokens a second at 1, 4 and 16 clients, beside llama.cpp
    python benchmarks/serving.py --requests 10000   memory over so many short requests

6 layers x 384, context 256, prompts of 16 tokens, 64 new tokens, 16 rows, 2 threads, float32; servers in processes of
their own, in turn, and clients that read streams. Nothing ends a text early, so all have one length. Threads of both
wait by spinning, so let nothing else run meanwhile. `--tiny` tries the logic at a size for tests.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil
import torch

import llama_cpp
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT

SIZES = {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
TINY = {"block_size": 64, "n_layer": 1, "n_head": 1, "n_embd": 32}
VOCABULARY = 65  # with the end of a text
CHARACTERS = [chr(0x4E00 + n) for n in range(VOCABULARY - 1)]  # as `llama_cpp.write_gguf` names tokens
ROWS = 16
PROMPT_TOKENS = 16


def model(sizes: dict[str, int]) -> GPT:
    """Drawn weights: what is measured does not depend on them."""
    return GPT(ModelConfig(vocab_size=VOCABULARY, **sizes)).initialize(0).eval()  # type: ignore[arg-type]


class Server:
    """A server in a process of its own, while the `with` block lasts."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.name, self._words = name, [sys.executable, __file__, "--serve", name, json.dumps(settings)]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self.process.wait()}")
        self.port = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()


class Answer(NamedTuple):
    """Seconds to the first piece of text and to the end, and the tokens of an answer."""

    first: float
    end: float
    tokens: int


async def ask(server: Server, seed: int, tokens: int) -> Answer:
    """Streams an answer."""
    prompt = "".join(CHARACTERS[(seed * 7 + n * n) % len(CHARACTERS)] for n in range(PROMPT_TOKENS))
    body: dict[str, Any] = {"model": "mine", "prompt": prompt, "max_tokens": tokens, "seed": seed, "temperature": 1.0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    if server.name == "llama.cpp":
        body |= {"samplers": ["temperature"], "cache_prompt": False, "ignore_eos": True}
    began, first, written = time.perf_counter(), 0.0, 0
    reader, writer = await send(server.port, "POST /v1/completions", json.dumps(body).encode())
    async for line in reader:
        if line.startswith((b'data: {"error"', b"HTTP/1.1 4")):
            raise RuntimeError(line)
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - began
            if b'"usage":{' in line:
                written = json.loads(line[6:])["usage"]["completion_tokens"]
    writer.close()
    return Answer(first, time.perf_counter() - began, written)


async def send(port: int, page: str, body: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends a request, whose answer is to be read up to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = f"{page} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


async def figures(server: Server) -> dict[str, float]:
    """What `/metrics` says, by the names of the figures."""
    reader, writer = await send(server.port, "GET /metrics")
    text = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, _, value in lines if "le=" not in name}


class Load(NamedTuple):
    """Tokens a second of all clients together, and the median seconds to a first token."""

    rate: float
    first: float


async def load(server: Server, clients: int, requests: int, tokens: int) -> Load:
    """Requests by so many clients, each of which sends its next one when the last is answered."""
    seeds, answers = iter(range(requests)), []

    async def client() -> None:
        for seed in seeds:
            answers.append(await ask(server, seed, tokens))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - began
    assert [answer.tokens for answer in answers] == [tokens] * requests, "a request was lost, or ended early"
    return Load(requests * tokens / seconds, statistics.median(answer.first for answer in answers))


async def in_turn(works: Mapping[str, Callable[[], Awaitable[Load]]], rounds: int) -> dict[str, Load]:
    """Medians of each, all of them in every round, so that a slow minute of the machine falls on all."""
    seen: dict[str, list[Load]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seen[name].append(await work())
    return {name: Load(*(statistics.median(part) for part in zip(*each, strict=True))) for name, each in seen.items()}


async def together(server: Server, tokens: int, rounds: int) -> None:
    """Prints how much faster 64 clients are than one after the other."""
    works = {
        "one after the other": partial(load, server, 1, 4, tokens),
        "64 clients": partial(load, server, 64, 64, tokens),
    }
    loads = await in_turn(works, rounds)
    alone, many = loads["one after the other"].rate, loads["64 clients"].rate
    print(f"one after the other {alone:8.0f} tokens/s")
    print(f"64 clients, {ROWS} rows {many:8.0f} tokens/s, {many / alone:.2f} times as many (asked: 4)")


async def waits(server: Server, tokens: int) -> None:
    """Prints how long a first token takes while 15 others stream, and how soon the place of one that goes is free."""
    before = await figures(server)
    others = [asyncio.create_task(ask(server, seed, 8 * tokens)) for seed in range(ROWS - 1)]
    while (await figures(server))["nanogrove_rows_active"] < ROWS - 1:
        await asyncio.sleep(0.01)
    firsts = [(await ask(server, 100 + n, 2)).first for n in range(5)]
    after = await figures(server)
    await asyncio.gather(*others)
    name = "nanogrove_step_seconds"
    step = (after[f"{name}_sum"] - before[f"{name}_sum"]) / (after[f"{name}_count"] - before[f"{name}_count"])
    first = statistics.median(firsts)
    print(f"first token while {ROWS - 1} others stream {1000 * first:.1f} ms, a step {1000 * step:.1f} ms:")
    print(f"from request to text {first / step:.2f} steps, with HTTP and the client's own time (asked: 2)")
    body = json.dumps({"model": "mine", "prompt": CHARACTERS[0], "max_tokens": 4000, "stream": True}).encode()
    reader, writer = await send(server.port, "POST /v1/completions", body)
    while not (await reader.readline()).startswith(b"data"):
        pass
    writer.close()
    began = time.perf_counter()
    while (await figures(server))["nanogrove_rows_active"]:
        await asyncio.sleep(0.002)
    print(f"the place of a client that goes is free after {1000 * (time.perf_counter() - began):.1f} ms (asked: 1000)")


async def beside(servers: Sequence[Server], tokens: int, rounds: int) -> None:
    """Prints tokens a second and time to the first token at 1, 4 and 16 clients."""
    print("| clients | server | tokens/s | first token, ms |\n|---|---|---|---|")
    for clients in (1, 4, 16):
        works = {each.name: partial(load, each, clients, max(2 * clients, 4), tokens) for each in servers}
        for name, each in (await in_turn(works, rounds)).items():
            print(f"| {clients} | {name} | {each.rate:.0f} | {1000 * each.first:.1f} |", flush=True)


async def memory(server: Server, requests: int) -> None:
    """Prints the memory of the server as short requests go by."""
    process = psutil.Process(server.process.pid)
    for part in range(10):
        await load(server, ROWS, requests // 10, 4)
        print(f"{(part + 1) * (requests // 10):6} requests {process.memory_info().rss / 1e6:8.1f} MB", flush=True)


def serve_nanogrove(sizes: dict[str, int], threads: int) -> None:
    """Serves a model until the process is ended."""
    from nanogrove.serve.app import Desk, Rules, Served, application
    from nanogrove.serve.engine import opened
    from nanogrove.serve.listening import Server as Listening
    from nanogrove.serve.listening import listen

    tokenizer = character_tokenizer(CHARACTERS)
    tokenizer.end = -1  # which no model writes
    torch.set_num_threads(threads)
    lm = LanguageModel(model(sizes), tokenizer)
    with opened(lm, ROWS, 64, "float32") as engine:
        address = listen("127.0.0.1", 0, None)
        desk = Desk({"mine": Served(lm, engine, 0)}, Rules(address.hosts, None, 10_000))
        print(address.socket.getsockname()[1], flush=True)
        Listening(application(desk), desk.worker.stop).run(sockets=[address.socket])


def serve_llama_cpp(path: str, context: int, threads: int) -> None:
    """Serves a GGUF file until the process is ended."""
    import xllamacpp

    parameters = llama_cpp.parameters(path, ROWS, context, threads)
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    print(server.listening_address.rpartition(":")[2], flush=True)
    sys.stdin.read()


async def measure(arguments: argparse.Namespace, sizes: dict[str, int], folder: Path) -> None:
    """Starts the servers and prints what was asked for."""
    tokens, rounds = (8, 2) if arguments.tiny else (64, arguments.rounds)
    threads = 1 if arguments.tiny else arguments.threads
    with ExitStack() as stack:
        servers = [stack.enter_context(Server("nanogrove", sizes=sizes, threads=threads))]
        if arguments.requests:
            await memory(servers[0], arguments.requests)
            return
        await load(servers[0], 4, 4, tokens)
        await together(servers[0], tokens, rounds)
        await waits(servers[0], tokens)
        if arguments.llama_cpp:
            path = llama_cpp.write_gguf(model(sizes), folder, "f32")
            peer = Server("llama.cpp", path=str(path), context=sizes["block_size"], threads=threads)
            servers.append(stack.enter_context(peer))
            await load(servers[1], 4, 4, tokens)
            await beside(servers, tokens, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", action="store_true", help="measure llama.cpp's server beside")
    parser.add_argument("--requests", type=int, default=0, help="measure memory over so many requests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="1 where other programs run meanwhile")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for tests")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "SETTINGS"), help="what the script starts itself with")
    arguments = parser.parse_args()
    if arguments.serve:
        name, settings = arguments.serve[0], json.loads(arguments.serve[1])
        if name == "nanogrove":
            serve_nanogrove(**settings)
        else:
            serve_llama_cpp(**settings)
        return
    if arguments.llama_cpp:
        llama_cpp.require()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(arguments, TINY if arguments.tiny else SIZES, Path(folder)))


if __name__ == "__main__":
    main()
