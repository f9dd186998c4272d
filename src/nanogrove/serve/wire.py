"""What clients send, under OpenAI's names, and what is wrong with it, in one line.

A field that is known and would change the text, but is not served, is refused unless it has the value that changes
nothing. Fields of nanogrove's own sampling stand beside those of OpenAI.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from nanogrove.decoding.sampling import Sampling
from nanogrove.settings import Settings, reason

MAX_LIKELIEST = 20  # alternatives of a token
COMPLETION_TOKENS = 16  # OpenAI's, where a request says none

StopText = Annotated[str, Field(min_length=1, max_length=256)]
Stop = StopText | Annotated[list[StopText], Field(max_length=4)]
SHAPES = {  # of fields that are text or a list
    "prompt": "must be a text, or a list of one text",
    "stop": "must be a text of 1 to 256 characters, or a list of 4 such texts at most",
}
Body = TypeVar("Body", bound="GenerationRequest")


class BadRequestError(ValueError):
    """A request that is refused: why, the field, and OpenAI's code and status."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class StreamOptions(Settings):
    """What a stream holds beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(Settings):
    """What completions and chats share."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    model: str = Field(max_length=1000)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, lt=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    no_repeat_ngram: int | None = Field(None, ge=1, le=1000)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, JsonValue], Field(max_length=0)] | None = None
    user: str | None = None  # who asks, which changes nothing

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen; at temperature 1, as OpenAI's, where the request says none."""
        given = {name: getattr(self, name) for name in Sampling.model_fields}
        return Sampling(**{"temperature": 1.0, **{name: value for name, value in given.items() if value is not None}})

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(GenerationRequest):
    """The body of `/v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] = ""
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LIKELIEST)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    @property
    def limit(self) -> int | None:
        """New tokens at most; None where the request does not say."""
        return COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Likeliest tokens to be named at each step; None for no log-probabilities."""
        return self.logprobs


class ChatRequest(GenerationRequest):
    """The body of `/v1/chat/completions`."""

    messages: list[dict[str, JsonValue]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LIKELIEST)
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @property
    def limit(self) -> int | None:
        """New tokens at most; None where the request does not say."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """Likeliest tokens to be named at each step; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


def read(kind: type[Body], body: bytes) -> Body:
    """The request that a body holds. Raises BadRequestError for what is none, naming the first field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        raise BadRequestError(f"the body is not JSON ({first['msg'].removeprefix('Invalid JSON: ')})")
    if not first["loc"]:
        raise BadRequestError("the body must be a JSON object")
    name = str(first["loc"][0])[:60]
    if first["type"] == "extra_forbidden":
        raise BadRequestError(f"{name}: is not a field that is served here; leave it out", name)
    same = [problem for problem in problems if problem["loc"][0] == first["loc"][0]]
    raise BadRequestError(f"{name}: {SHAPES.get(name) or reason(same)}", name)


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> Mapping[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
