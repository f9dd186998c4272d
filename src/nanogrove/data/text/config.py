"""Settings of a text corpus: which sources, how they are mixed, split and tokenised. Imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from nanogrove.data.sources.contract import DocumentSource
from nanogrove.data.sources.kinds import Source
from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.paths import OnDisk
from nanogrove.settings import Settings


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


Sources = Annotated[list[Source], BeforeValidator(_as_list)]


class DataConfig(Settings):
    """Which text to train on, how its sources are mixed, and how it becomes tokens."""

    type: Literal["text"] = "text"
    sources: Sources = Field([], description="where text comes from: paths, short names, or objects with a `type`")
    custom_sources: Sources = Field([], description="more sources, read after those of `sources`")
    mix_strategy: Literal["round_robin", "sequential", "weighted"] = Field(
        "round_robin", description="how sequences alternate between sources"
    )
    source_weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        None, description="share of sequences from each source, in any unit; with mix_strategy=weighted"
    )
    tokenizer: Annotated[str, OnDisk(("char", "byte", "bpe"))] = Field(
        "bpe", description="char, byte, bpe, a path to a tokenizer.json, or a hub name"
    )
    vocab_size: int = Field(
        4096, ge=1, le=10_000_000, description="tokens in the vocabulary of a bpe tokenizer trained here"
    )
    split: Literal["auto", "document", "tail"] = Field(
        "auto",
        description="hold out whole documents, or the tail of each source; auto: tail below 100 documents",
    )
    validation: float = Field(0.05, gt=0, lt=1, description="share of the text held out for validation")
    test: float = Field(0.05, ge=0, lt=1, description="share of the text held out for the test")
    min_text_length: int = Field(0, ge=0, le=PIECE_CHARACTERS, description="characters; shorter documents are left out")
    drop_duplicates: bool = Field(False, description="leave out exact duplicates of documents that came before")
    bad_rows: Literal["skip", "refuse"] = Field("skip", description="what to do with a row that cannot be used")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.all_sources:
            raise ValueError("sources is empty; name a file, a folder or python-stdlib")
        if (self.source_weights is not None) != (self.mix_strategy == "weighted"):
            raise ValueError("source_weights and mix_strategy=weighted belong together; give both or none")
        if self.source_weights is not None:
            if len(self.source_weights) != len(self.all_sources):
                raise ValueError(f"{len(self.source_weights)} source_weights for {len(self.all_sources)} sources")
            if not any(self.source_weights):
                raise ValueError("source_weights are all 0; at least one must be above")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on; their sum must be below 1")
        return self

    @property
    def all_sources(self) -> list[DocumentSource]:
        """`sources` and `custom_sources`."""
        return [*self.sources, *self.custom_sources]
