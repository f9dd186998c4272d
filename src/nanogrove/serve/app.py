"""The interface of OpenAI: models, completions and chat completions, with metrics, as a Starlette application."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from nanogrove.data.chat.encoding import ChatPrompts
from nanogrove.decoding.stopping import stop_texts
from nanogrove.errors import NanogroveError, nearest
from nanogrove.language_model import LanguageModel
from nanogrove.serve import engine as engines
from nanogrove.serve.answers import CHAT, COMPLETION, Answer, Shape, event
from nanogrove.serve.door import Door, refused
from nanogrove.serve.engine import BusyError, Engine
from nanogrove.serve.metrics import Metrics
from nanogrove.serve.wire import BadRequestError, ChatRequest, CompletionRequest, GenerationRequest, error_body, read
from nanogrove.serve.worker import Mailbox, Worker
from nanogrove.settings import shown

MAX_BODY_BYTES, BODY_SECONDS = 1 << 20, 15.0
RETRY_SECONDS = 1  # that a client waits before it asks a full server again
Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    """A model that is served.

    Args:
        lm: The model.
        engine: What continues its requests.
        created: When its checkpoint was written, in seconds since 1970.
    """

    lm: LanguageModel
    engine: Engine
    created: int


class Rules(NamedTuple):
    """Who may ask for what: see `Door`; and new tokens that a request may ask for."""

    hosts: frozenset[str] | None
    key: str | None
    max_tokens: int


class Wanted(NamedTuple):
    """What the two interfaces say each in its own way.

    Args:
        prompt: Its tokens.
        ends: Tokens that end the continuation.
        limit: New tokens at most; None for as many as the context holds.
        alternatives: Likeliest tokens to be named at each step; None for no log-probabilities.
    """

    prompt: list[int]
    ends: frozenset[int]
    limit: int | None
    alternatives: int | None


def application(desk: "Desk") -> Starlette:
    """The pages of a desk, within its door."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with desk.worker:
            yield
        desk.close()

    return Starlette(
        routes=[
            Route("/v1/models", desk.list_models),
            Route("/v1/models/{name:path}", desk.one_model),
            Route("/v1/completions", desk.complete, methods=["POST"]),
            Route("/v1/chat/completions", desk.chat, methods=["POST"]),
            Route("/metrics", desk.figures),
        ],
        middleware=[Middleware(Door, hosts=desk.rules.hosts, key=desk.rules.key)],
        exception_handlers={HTTPException: _no_such_page, BadRequestError: _bad_request},
        lifespan=lifespan,
    )


class Desk:
    """Answers requests to some models, by their names."""

    def __init__(self, models: Mapping[str, Served], rules: Rules) -> None:
        self.models, self.rules, self.metrics = models, rules, Metrics()
        self.worker = Worker({name: served.engine for name, served in models.items()}, self.metrics)
        self._prompts = {name: ChatPrompts(served.lm.tokenizer) for name, served in models.items()}
        self._encoding = {name: asyncio.Lock() for name in models}  # a tokenizer serves one thread at a time

    def close(self) -> None:
        """Ends the processes of chat templates."""
        for prompts in self._prompts.values():
            prompts.close()

    async def list_models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.models]})

    async def one_model(self, request: Request) -> Response:
        """`GET /v1/models/NAME`."""
        name = request.path_params["name"]
        self._served(name)
        return JSONResponse(self._model(name))

    async def figures(self, request: Request) -> Response:
        """`GET /metrics`."""
        gauges = []
        for name, served in self.models.items():
            by, engine = {"model": name}, served.engine
            gauges += [("nanogrove_rows_active", engine.active, by), ("nanogrove_rows", engine.room, by)]
            gauges.append(("nanogrove_requests_waiting", engine.waiting, by))
        return PlainTextResponse(self.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        body = read(CompletionRequest, await _body(request))
        tokenizer = self._served(body.model).lm.tokenizer
        ids = await self._encoded(body.model, tokenizer.encode, body.text)
        wanted = Wanted(ids or [tokenizer.end], frozenset([tokenizer.end]), body.limit, body.alternatives)
        return await self._answer(request, body, COMPLETION, wanted)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        body = read(ChatRequest, await _body(request))
        tokenizer = self._served(body.model).lm.tokenizer
        prompt = await self._encoded(body.model, self._prompts[body.model].prompt, body.messages)
        wanted = Wanted(prompt.ids, frozenset([tokenizer.end, prompt.end]), body.limit, body.alternatives)
        return await self._answer(request, body, CHAT, wanted)

    async def _encoded(self, model: str, encode: Callable[..., Result], *arguments: object) -> Result:
        """What `encode` gives, in another thread, one call at a time for each model, as its tokenizer takes them.

        Raises BadRequestError where it raises an error of what it was given.
        """
        async with self._encoding[model]:
            try:
                return await asyncio.to_thread(encode, *arguments)
            except NanogroveError as error:
                raise BadRequestError(str(error)) from None

    async def _answer(self, request: Request, body: GenerationRequest, shape: Shape, wanted: Wanted) -> Response:
        """Continues a prompt as the body of a request asks."""
        served = self._served(body.model)
        asked = engines.Request(
            prompt=wanted.prompt,
            tokens=self._tokens(body.model, wanted),
            sampling=body.sampling,
            seed=secrets.randbits(63) if body.seed is None else body.seed,
            ends=wanted.ends,
            stops=stop_texts(body.stops, served.lm.tokenizer.decode),
            alternatives=wanted.alternatives,
        )
        try:
            mailbox = self.worker.submit(body.model, asked)
        except BusyError as error:
            self.metrics.add("nanogrove_requests", model=body.model, end="refused")
            refusal = refused(str(error), 429, "rate_limit_exceeded")
            refusal.headers["Retry-After"] = str(RETRY_SECONDS)
            return refusal
        answer = Answer(shape, body.model, served.lm.tokenizer, len(wanted.prompt))
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(self._pieces(mailbox, answer, usage))
        return await self._whole(request, mailbox, answer)

    def _tokens(self, model: str, wanted: Wanted) -> int:
        """New tokens at most. Raises BadRequestError for too many, and for a prompt that the context does not hold."""
        most, size = self.rules.max_tokens, self.models[model].lm.model.config.block_size
        if len(wanted.prompt) > size:
            raise BadRequestError(
                f"the prompt has {len(wanted.prompt):,} tokens, and the context of {model} holds {size:,}; "
                "send a shorter one",
                code="context_length_exceeded",
            )
        limit = min(size, most) if wanted.limit is None else wanted.limit
        if limit > most:
            raise BadRequestError(f"max_tokens: must be {most:,} or less on this server, and {limit:,} was given")
        return limit

    async def _whole(self, request: Request, mailbox: Mailbox, answer: Answer) -> Response:
        """The answer at once; its place is freed where the client goes."""
        ended, gone = asyncio.ensure_future(mailbox.ended.wait()), asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.worker.cancel(mailbox)
            ended.cancel()
            gone.cancel()
        if not mailbox.ended.is_set():
            return Response(status_code=499)  # which nobody reads
        updates = await mailbox.take()
        if updates[-1].end == "failed":
            return refused(updates[-1].problem, 500)
        return JSONResponse(answer.whole(updates))

    async def _pieces(self, mailbox: Mailbox, answer: Answer, usage: bool) -> AsyncIterator[bytes]:
        """The answer as it comes; its place is freed where the client goes."""
        try:
            end = None
            while end is None:
                updates = await mailbox.take()
                end = updates[-1].end
                if end == "failed":
                    yield event(error_body(updates[-1].problem, 500))
                elif (piece := answer.piece(updates)) is not None:
                    yield event(piece)
            if usage and end != "failed":
                yield event(answer.usage(updates[-1].tokens))
            yield event("[DONE]")
        finally:
            self.worker.cancel(mailbox)

    def _served(self, name: str) -> Served:
        """The model of a name. Raises BadRequestError for one that is not served."""
        if name in self.models:
            return self.models[name]
        hint = nearest(name, self.models) or f"models here are {', '.join(self.models)}"
        raise BadRequestError(f"no model is called {shown(name)}; {hint}", "model", "model_not_found", 404)

    def _model(self, name: str) -> dict[str, object]:
        created = self.models[name].created
        return {"id": name, "object": "model", "created": created, "owned_by": "nanogrove"}


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store"})


async def _body(request: Request) -> bytes:
    """The body of a request. Raises BadRequestError for one of another type, too large, or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page may send text to any address without asking, and JSON it may not
        raise BadRequestError("send JSON, with Content-Type: application/json", status=415)
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise BadRequestError(f"the body has more than {MAX_BODY_BYTES:,} bytes", status=413)
                parts.append(part)
    except TimeoutError:
        raise BadRequestError(f"the body did not come within {BODY_SECONDS:g} seconds", status=408) from None
    except ClientDisconnect:
        raise BadRequestError("the client is gone", status=400) from None
    return b"".join(parts)


async def _until_gone(request: Request) -> None:
    """Returns when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequestError)
    return refused(str(error), error.status, error.code, error.param)


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    pages = "/v1/models, /v1/completions, /v1/chat/completions and /metrics"
    answer = refused(f"{error.detail}: this server has {pages}", error.status_code)
    answer.headers.update(error.headers or {})
    return answer
