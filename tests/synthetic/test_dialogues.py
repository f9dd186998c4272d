"""Dialogues whose answers are known."""

import pytest

from nanogrove.data.chat.conversations import checked_messages
from nanogrove.data.rng import random
from nanogrove.synthetic.dialogues import DialogueConfig, answer, dialogue


def test_every_answer_is_the_true_one() -> None:
    turns = set()
    for number in range(100):
        messages = dialogue(random(0, "test", number), (2, 4))
        assert checked_messages(list(messages)) == messages
        turns.add(len(messages) // 2)
        for turn in range(0, len(messages), 2):
            assert answer(messages[: turn + 1]) == messages[turn + 1]["content"]
    assert turns == {1, 2, 3, 4}


def test_the_answer_to_a_dialogue_by_hand() -> None:
    asked = {"role": "user", "content": "The kettle is red. The ship is blue. What colour is the ship?"}
    assert answer([asked]) == "The ship is blue."  # type: ignore[list-item]
    assert answer([asked, {"role": "assistant", "content": "…"}, {"role": "user", "content": "And the kettle?"}]) == (  # type: ignore[list-item]
        "The kettle is red."
    )
    assert answer([asked, {"role": "user", "content": "And the cloud?"}]) is None  # type: ignore[list-item]


@pytest.mark.parametrize("number", [0, 7])
def test_dialogues_are_functions_of_their_numbers(number: int) -> None:
    from nanogrove.data.sources.pieces import Skipped

    drawn = list(DialogueConfig(type="dialogues", count=100).conversations(Skipped()))
    assert drawn[number].messages == dialogue(random(0, "dialogues", number), (2, 4))
    assert len(drawn) == 100
