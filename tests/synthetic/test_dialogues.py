"""Dialogues whose answers are known."""

import re

import pytest

from nanogrove.corpora import make_corpus
from nanogrove.data.chat.conversations import Message, checked_messages
from nanogrove.data.rng import random
from nanogrove.synthetic.dialogues import DialogueConfig, answer, dialogue


def test_every_answer_is_the_true_one() -> None:
    turns = set()
    for number in range(100):
        messages = dialogue(random(0, "test", number), 3)
        assert checked_messages(list(messages)) == messages
        turns.add(len(messages) // 2)
        for turn in range(0, len(messages), 2):
            assert answer(messages[: turn + 1]) == messages[turn + 1]["content"]
    assert turns == {1, 2, 3}


def test_the_answer_to_a_dialogue_by_hand() -> None:
    first: Message = {"role": "user", "content": "What is the opposite of hot, down, wet and new?"}
    reply: Message = {"role": "assistant", "content": "It is cold, up, dry and old."}
    again: Message = {"role": "user", "content": "And the opposite of that?"}
    assert answer([first]) == "It is cold, up, dry and old."
    assert answer([first, reply, again]) == "It is hot, down, wet and new."
    assert answer([again]) is None
    assert answer([{"role": "user", "content": "What is the opposite of hot, down, wet and blue?"}]) is None


@pytest.mark.parametrize("number", [0, 7])
def test_dialogues_are_functions_of_their_numbers(number: int) -> None:
    from nanogrove.data.sources.pieces import Skipped

    drawn = list(DialogueConfig(type="dialogues", count=100).conversations(Skipped()))
    assert drawn[number].messages == dialogue(random(0, "dialogues", number), 3)
    assert len(drawn) == 100


def test_answers_are_counted_where_a_row_is_a_dialogue() -> None:
    alone, packed = (
        make_corpus(DialogueConfig(type="dialogues", count=100, packed=packed), 128, 4, 0) for packed in (False, True)
    )
    assert alone.has_answers
    assert not alone.answers_end_rows, "so that a calibration does not write all turns at once"
    assert not packed.has_answers
    assert packed.length == 128 > alone.length
    text = "".join(alone.tokenizer.decode(batch.targets[batch.mask].tolist()) for batch in alone.eval_batches("test"))
    assert re.fullmatch(r"(It is \w+, \w+, \w+ and \w+\.)+", text)
