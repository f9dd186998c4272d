"""Splits are disjoint, are together the text, keep equal documents together, and have the shares that are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogrove.data.sources.pieces import Piece, Skipped
from nanogrove.data.splits import SPLITS
from nanogrove.data.text.assign import STREAM_FROM_BYTES, accepted_pieces, assign_to_splits, characters_to_split
from nanogrove.data.text.config import DataConfig

LAWS = settings(derandomize=True, database=None, deadline=None, max_examples=80)
Document = list[str]  # its pieces, one or more


@dataclass(frozen=True)
class Listed:
    """Documents as they are listed."""

    documents: list[Document]
    bytes: int | None = 0
    type: str = "listed"
    pinned: dict[str, Any] = field(default_factory=dict)

    def title(self) -> str:
        return self.type

    def identity(self) -> dict[str, object]:
        return {}

    def size(self) -> int | None:
        return self.bytes

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        for document in self.documents:
            for number, text in enumerate(document):
                yield Piece(text, number == 0)


texts = st.text(st.sampled_from("ab\né🙂"), min_size=1, max_size=9)
documents = st.lists(st.lists(texts, min_size=1, max_size=3), max_size=40)
shares = st.tuples(st.floats(0.01, 0.5), st.floats(0, 0.45))
sizes = st.sampled_from([0, STREAM_FROM_BYTES + 1, None])
configs = st.builds(
    lambda split, share, shortest, once: DataConfig(
        sources=["unread.txt"],
        split=split,
        validation=share[0],
        test=share[1],
        min_text_length=shortest,
        drop_duplicates=once,
    ),
    st.sampled_from(["auto", "document", "tail"]),
    shares,
    st.integers(0, 5),
    st.booleans(),
)


def assigned(config: DataConfig, source: Listed) -> list[tuple[str, Piece]]:
    return list(assign_to_splits(config, source, characters_to_split(config, source), Skipped()))


@LAWS
@given(documents=documents, config=configs, size=sizes)
def test_splits_are_together_what_is_accepted_and_in_its_order(
    documents: list[Document], config: DataConfig, size: int | None
) -> None:
    source = Listed(documents, size)
    given = "".join(piece.text for piece in accepted_pieces(config, source, Skipped()))
    assert "".join(piece.text for _, piece in assigned(config, source)) == given


@LAWS
@given(documents=documents, config=configs, size=sizes)
def test_every_stretch_of_a_split_begins_a_document_where_its_text_begins_anew(
    documents: list[Document], config: DataConfig, size: int | None
) -> None:
    """A piece that continues a document follows, in its split, the piece that it continues."""
    source = Listed(documents, size)
    before = ""
    for split, piece in assigned(config, source):
        assert piece.first or split == before or characters_to_split(config, source) is not None
        before = split


@LAWS
@given(documents=documents, config=configs, size=sizes)
def test_what_is_left_out_is_short_or_a_duplicate_and_is_counted(
    documents: list[Document], config: DataConfig, size: int | None
) -> None:
    skipped, expected, seen = Skipped(), [], set()
    for document in documents:
        text = document[0]
        if len(document) == 1:
            if len(text) < config.min_text_length or (config.drop_duplicates and text in seen):
                continue
            seen.add(text)
        expected += document
    kept = list(accepted_pieces(config, Listed(documents, size), skipped))
    assert [piece.text for piece in kept] == expected
    assert skipped.counts.total() == sum(map(len, documents)) - len(expected)


@LAWS
@given(documents=documents, share=shares, size=sizes)
def test_equal_documents_are_on_one_side_wherever_they_stand(
    documents: list[Document], share: tuple[float, float], size: int | None
) -> None:
    config = DataConfig(sources=["unread.txt"], split="document", validation=share[0], test=share[1])
    alone = [document[:1] for document in documents]
    side: dict[str, str] = {}
    for split, piece in assigned(config, Listed(alone + alone[::-1], size)):
        assert side.setdefault(piece.text, split) == split
    for text, split in side.items():
        assert assigned(config, Listed([[text]], size)) == [(split, Piece(text, True))]


@LAWS
@given(documents=documents, share=shares)
def test_all_pieces_of_a_document_that_does_not_stream_are_on_one_side(
    documents: list[Document], share: tuple[float, float]
) -> None:
    config = DataConfig(sources=["unread.txt"], split="document", validation=share[0], test=share[1])
    found = iter(assigned(config, Listed(documents)))
    for document in documents:
        assert len({next(found)[0] for _ in document}) == 1


@LAWS
@given(documents=documents, share=shares)
def test_by_position_the_end_is_held_out_to_the_character(
    documents: list[Document], share: tuple[float, float]
) -> None:
    config = DataConfig(sources=["unread.txt"], split="tail", validation=share[0], test=share[1])
    found = assigned(config, Listed(documents))
    order = [SPLITS.index(split) for split, _ in found]
    assert order == sorted(order)
    total = sum(len(text) for document in documents for text in document)
    lengths = {name: sum(len(piece.text) for split, piece in found if split == name) for name in SPLITS}
    assert lengths["validation"] == pytest.approx(total * config.validation, abs=1.01)
    assert lengths["test"] == pytest.approx(total * config.test, abs=1.01)


@settings(LAWS, max_examples=20)
@given(share=shares, start=st.integers(0, 10**9))
def test_by_document_shares_are_those_asked_for(share: tuple[float, float], start: int) -> None:
    """Of 1,000 different documents, within five standard deviations."""
    config = DataConfig(sources=["unread.txt"], validation=share[0], test=share[1])
    splits = [split for split, _ in assigned(config, Listed([[str(start + n)] for n in range(1000)]))]
    for name, asked in (("validation", config.validation), ("test", config.test)):
        assert splits.count(name) == pytest.approx(1000 * asked, abs=5 * (1000 * asked * (1 - asked)) ** 0.5)
