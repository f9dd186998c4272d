"""Settings of conversations as data, and the conversations of a file."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from nanogrove.data.chat.conversations import BadConversationError, Conversation, conversation_of, texts_of
from nanogrove.data.rows_file import RowsFile
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.sources.rows import encodes
from nanogrove.errors import DataError
from nanogrove.paths import OnDisk
from nanogrove.settings import Settings

Token = Annotated[str, Field(min_length=1, max_length=100)]


class Located(NamedTuple):
    """A conversation, and where it is, for a message."""

    location: str
    messages: Conversation


class ChatOptions(Settings):
    """How conversations become tokens; each kind of data narrows `type` to its name."""

    type: str
    template: Annotated[str, OnDisk(("plain",))] = Field(
        "plain", description="chat template: plain, or a file of Jinja such as chat_template.jinja"
    )
    special_tokens: list[Token] = Field(
        [], description="special tokens that the template writes, besides those that it spells as <|name|>"
    )
    tokenizer: Annotated[str, OnDisk(("char", "byte", "bpe"))] = Field(
        "bpe", description="char, byte, bpe, a path to a tokenizer.json, or a hub name"
    )
    vocab_size: int = Field(
        4096, ge=1, le=10_000_000, description="tokens of a bpe tokenizer trained here, without those of the template"
    )
    packed: bool = Field(True, description="several whole conversations in a window; false: one each, filled up")
    validation: float = Field(0.05, gt=0, lt=1, description="share of the conversations, by what the user says")
    test: float = Field(0.05, ge=0, lt=1, description="share of the conversations, by what the user says")

    has_answers: ClassVar[bool] = False
    """Whether the assistant's messages are right or wrong, and may be counted."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on; their sum must be below 1")
        return self

    @abstractmethod
    def title(self) -> str:
        """The name of the data in messages."""

    @abstractmethod
    def conversations(self, skipped: Skipped) -> Iterator[Located]:
        """Conversations in order; rows that cannot be used are counted. Raises DataError for unreadable data."""


class ChatConfig(RowsFile, ChatOptions):
    """Conversations of a file: OpenAI's messages, ShareGPT's conversations, or Alpaca's instructions."""

    type: Literal["chat"]
    column: str | None = Field(
        None, description="column of the messages; messages, conversations or instruction and output when left out"
    )
    bad_rows: Literal["skip", "refuse"] = Field("skip", description="what to do with a row that cannot be used")

    def title(self) -> str:
        """The path."""
        return self.path

    def conversations(self, skipped: Skipped) -> Iterator[Located]:
        """The conversation of each row."""
        skipped.refuse = self.bad_rows == "refuse"
        path = self.existing_path()
        table = self.table(path)
        if table is None:
            raise DataError(f"{path}: lines of text; conversations are rows of JSON lines, JSON or Parquet")
        for number, row in table.rows(path, _every_column, skipped):
            location = table.location(path, number)
            try:
                messages = conversation_of(row, self.column)
            except BadConversationError as error:
                skipped.bad(str(error), location)
                continue
            if all(map(encodes, texts_of(messages))):
                yield Located(location, messages)
            else:
                skipped.bad("not utf-8", location)


def _every_column(available: Sequence[str]) -> Sequence[str]:
    return list(dict.fromkeys(available))
