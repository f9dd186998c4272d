"""The guard: what raises an alarm, and what later states are compared with."""

import pytest

from nanogrove.evaluate.committee import Survey
from nanogrove.methods.self_improve.config import Config
from nanogrove.methods.self_improve.guard import Losses, Progress, alarm, base_problem, commit_round
from nanogrove.synthetic.examples import TaskConfig, TaskCorpus

CORPUS = TaskCorpus(TaskConfig(type="task", task="copy", base=(1, 3)), 16, 4, 0)  # one prompt of 1 digit is held out
SURVEY = Survey([1, 2, 3, 4, 5], [0.0, 0.85, 0.9, 0.3, 0.0], [], [], [], [], [True, True])
LOSSES = Losses({"loss": [0.3, 0.5]}, [[0.2, 0.2], [0.6, 0.8]])


@pytest.fixture
def progress() -> Progress:
    return {
        "frontier": 3,
        "accepted": [{"name": "round-1", "difficulties": [3]}],
        "agreement": {},
        "firmest": {"1": 1.0, "2": 1.0, "3": 0.9, "4": 1.0, "5": 1.0},  # 4 and 5 were not open
        "least": [0.1, 0.2],
        "strict": 0,
        "settled": 1,
        "current": {
            "round": 2,
            "difficulties": [4],
            "labels": [],
            "rows": 9,
            "strict": False,
            "name": "round-2",
            "decode": 0.0,
            "trained": 0.0,
        },
    }


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"guard_agreement": 0.4}, "agreement at difficulty 4 is 0.30 after the round"),
        ({"guard_drop": 0.1}, "agreement at difficulty 2 fell from 1.00 to 0.85"),
        ({"guard_loss": 0.2}, "the loss on base data rose by 0.300 nats per token"),
        ({"guard_loss": 0.09, "guard_drop": 0.2}, "the loss on base data rose"),
        ({"guard_fit": 0.6}, "the loss on the round's own labels is 0.700 nats per token after it"),
        ({}, None),
    ],
)
def test_what_raises_an_alarm(progress: Progress, limits: dict[str, float], reason: str | None) -> None:
    calm = {"guard_agreement": 0.0, "guard_drop": 1.0, "guard_loss": 9.0, "guard_fit": 9.0}
    config = Config.model_validate({**calm, **limits})
    raised = alarm(config, progress, CORPUS, SURVEY, LOSSES)
    assert raised is None if reason is None else (raised or "").startswith(reason)


def test_a_kept_state_raises_the_best_agreement_and_lowers_the_best_losses(progress: Progress) -> None:
    commit_round(progress, SURVEY, LOSSES)
    assert progress["agreement"] == {"1": 0.0, "2": 0.85, "3": 0.9, "4": 0.3, "5": 0.0}
    assert progress["firmest"] == {"1": 1.0, "2": 1.0, "3": 0.9, "4": 1.0, "5": 1.0}
    assert progress["least"] == pytest.approx([0.1, 0.2, 0.7])
    assert "votes" not in progress, "all vote"
    for votes in ([True, False], [True, True]):
        commit_round(progress, SURVEY._replace(votes=votes), LOSSES)
        assert progress["votes"] == votes, "a voter that has caught up votes again"


def test_rounds_need_a_base_that_agrees(progress: Progress) -> None:
    progress["agreement"] = {"3": 0.4}
    problem = "agreement at base difficulty 3 is 0.40, so the base needs more steps"
    assert base_problem(Config(), progress, 3) == problem
    assert base_problem(Config(guard=False), progress, 3) is None
    assert base_problem(Config(guard_agreement=0.4), progress, 3) is None
    assert base_problem(Config(), progress, 2) is None, "a single voter has no agreement"
