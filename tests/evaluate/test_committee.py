"""A committee: what it writes, how it votes, and what its filters let pass, against hand-made cases and brute force."""

import random as python_random
from typing import Any

import numpy as np
import pytest
import torch

from nanogrove.corpora import make_corpus
from nanogrove.evaluate import committee
from nanogrove.evaluate.committee import Labels, Rules
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack
from nanogrove.synthetic.examples import Answer, TaskConfig, TaskCorpus


def corpus(task: str = "copy", **options: Any) -> TaskCorpus:
    config = {"type": "task", "task": task, "base": [1, 3], "options": options, "held_out": 20}
    built = make_corpus(TaskConfig.model_validate(config), 64, 8, seed=0)
    assert isinstance(built, TaskCorpus)
    return built


def voters(tasks: TaskCorpus, count: int | None = 3, scale: float = 12.0) -> GPT:
    """Untrained voters whose weights are so large that they say many different things."""
    config = ModelConfig(
        family="llama", vocab_size=tasks.tokenizer.vocab_size, block_size=64, n_layer=2, n_head=2, n_embd=16
    )
    model = GPT(config, count).initialize(*range(count or 1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(scale)
    return model


@torch.no_grad()
def written_alone(model: GPT, tasks: TaskCorpus, prompt: str, limit: int) -> Answer:
    """One prompt, one model, the whole text read again for each token."""
    ids = tasks.tokenizer.encode(prompt)
    for _ in range(limit):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == tasks.tokenizer.end:
            return tasks.tokenizer.decode(ids[len(prompt) : -1])
    return None


@pytest.mark.parametrize(("task", "options"), [("copy", {}), ("addition", {"equal": False})])
def test_decoding_together_is_decoding_alone(task: str, options: dict[str, Any]) -> None:
    tasks = corpus(task, **options)
    model = voters(tasks)
    rng = np.random.default_rng(0)
    prompts = [tasks.task.example(3, rng)[0] for _ in range(40)]
    together = committee.decode(model, tasks, prompts, 3, at_once=7)
    alone = []
    for member in range(3):
        one = GPT(model.config)
        one.load_state_dict(unstack(model.state_dict(), member))
        limits = [tasks.task.longest(3) - len(prompt) + 1 for prompt in prompts]
        alone.append([written_alone(one.eval(), tasks, p, n) for p, n in zip(prompts, limits, strict=True)])
    assert together == alone
    given = {answer for voter in together for answer in voter}
    assert None in given
    assert len(given) > 5, "the voters say too little to tell anything"
    single = GPT(model.config)
    single.load_state_dict(unstack(model.state_dict(), 1))
    assert committee.decode(single, tasks, prompts, 3) == [alone[1]]


def test_sampling_depends_on_its_generator_alone() -> None:
    tasks = corpus()
    model = voters(tasks, scale=3.0)
    prompts = ["123=", "456=", "777="] * 10

    def drawn(seed: int) -> list[list[Answer]]:
        return committee.decode(model, tasks, prompts, 3, 1.0, torch.Generator().manual_seed(seed))

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def ballots(seed: int, voters: int, prompts: int) -> list[list[Answer]]:
    rng = python_random.Random(seed)
    return [[rng.choice(["1", "22", "333", None]) for _ in range(prompts)] for _ in range(voters)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_vote_is_the_most_frequent_answer(count: int) -> None:
    answers = ballots(count, count, 300)
    labels = committee.elect(answers)
    for index in range(300):
        given = [voter[index] for voter in answers]
        counts = {a: given.count(a) for a in given if a is not None}
        most = max(counts.values(), default=0)
        first = next((a for a in given if a is not None and counts[a] == most), None)
        assert labels.answers[index] == first
        assert labels.support[index] == most / count
    same = [len({voter[n] for voter in answers}) == 1 and answers[0][n] is not None for n in range(300)]
    assert committee.agreement(answers) == (None if count == 1 else sum(same) / 300)


def test_without_a_vote_each_voter_labels_its_share() -> None:
    answers = ballots(0, 3, 90)
    labels = committee.elect(answers, vote=False)
    assert labels.answers == [answers[n % 3][n] for n in range(90)]
    for index, (label, share) in enumerate(zip(*labels, strict=True)):
        given = [voter[index] for voter in answers]
        assert share == (0 if label is None else given.count(label) / 3)


@pytest.mark.parametrize(
    ("voters", "vote", "needed"), [(5, 0.8, 4), (5, 1.0, 5), (3, 0.67, 2), (3, 0.66, 2), (3, 0.7, 3), (2, 0.5, 1)]
)
def test_the_share_a_vote_asks_for(voters: int, vote: float, needed: int) -> None:
    labels = Labels(["1"] * (voters + 1), [n / voters for n in range(voters + 1)])
    assert committee.supported(labels, vote) == [n >= needed for n in range(voters + 1)]


def test_the_length_filter_compares_answers_to_prompts_of_one_length() -> None:
    prompts = ["1=", "2=", "3=", "44=", "55=", "66="]
    labels = Labels(["123", "12", "1", "1", None, ""], [1.0] * 6)
    assert committee.of_usual_length(labels, prompts, 1) == [True, False, False, True, False, False]
    assert committee.of_usual_length(labels, prompts, 2) == [True, True, False, True, False, True]
    assert committee.finished(labels) == [True, True, True, True, False, True]
    labels = Labels(["12", "21", "12345", "1", "12", None], [1.0] * 6)
    same = ["1="] * 6
    assert committee.of_usual_length(labels, same, 1) == [True, True, False, False, True, False], "one that runs on"


def test_self_consistency_by_hand() -> None:
    samples: list[list[list[Answer]]]  # [S][P][N]
    samples = [[["a", "b"], ["a", None]], [["a", "c"], ["x", None]], [["y", "c"], ["z", "c"]]]
    answers, shares = committee.consistent(samples)
    assert answers == [["a", "c"], ["a", "c"]]
    assert shares == [[2 / 3, 2 / 3], [1 / 3, 1 / 3]]
    labels = committee.elect(answers)
    assert committee.self_consistent(labels, answers, shares) == [False, False], "(2/3 + 1/3) / 2 is no more than half"
    assert committee.self_consistent(labels, [["a", "c"], ["q", "c"]], shares) == [True, False]


def test_log_probabilities_are_those_of_the_answer_and_its_end() -> None:
    tasks = corpus()
    model = voters(tasks, scale=4.0).eval()
    pairs = [("12=", "12"), ("7=", ""), ("333=", "3335")]
    means = committee.log_probability(model, tasks, pairs, at_once=2)
    for (prompt, answer), mean in zip(pairs, means.tolist(), strict=True):
        ids = [*tasks.tokenizer.encode(prompt + answer), tasks.tokenizer.end]
        with torch.no_grad():
            scores = model(torch.tensor([ids]).expand(3, 1, -1)).double().log_softmax(-1)
        each = [[scores[p, 0, n - 1, ids[n]].item() for n in range(len(prompt), len(ids))] for p in range(3)]
        assert mean == pytest.approx(np.mean(each), abs=1e-5)
    labels = Labels([answer for _, answer in pairs[:2]] + [None], [1.0] * 3)
    between = float(means[:2].mean())
    kept = committee.confident(model, tasks, labels, [prompt for prompt, _ in pairs], between)
    assert kept == [means[0] >= between, means[1] >= between, False]


def test_filters_are_asked_for_one_by_one() -> None:
    tasks = corpus()
    model = voters(tasks)
    answers: list[list[Answer]] = [["1", "2"], ["1", None]]
    shares = [[1.0, 1.0], [1.0, 1.0]]

    def names(**rules: Any) -> list[str]:
        return list(committee.verdicts(model, tasks, ["1=", "2="], answers, shares, Rules(**rules))[1])

    assert names() == ["finished"]
    assert names(vote=1.0, length_margin=2) == ["finished", "length", "vote"]
    assert names(self_consistency=3, confidence=-1.0) == ["finished", "self-consistency", "confidence"]
    labels, passed = committee.verdicts(model, tasks, ["1=", "2="], answers, shares, Rules(vote=1.0))
    assert labels == (["1", "2"], [1.0, 0.5])
    assert passed["vote"] == [True, False]


def test_the_vote_and_the_length_filter_find_injected_errors() -> None:
    tasks = corpus()
    rng = np.random.default_rng(1)
    prompts, truths = zip(*(tasks.task.example(6, rng) for _ in range(2000)), strict=True)
    answers = committee.spoil([list(truths)] * 3, 0.2, rng)
    wrong = [[a != t for a, t in zip(voter, truths, strict=True)] for voter in answers]
    assert np.mean(wrong) == pytest.approx(0.2, abs=0.02)
    labels = committee.elect(answers)
    right = committee.correct(tasks.task, prompts, labels.answers)
    assert right == [a == t for a, t in zip(labels.answers, truths, strict=True)]
    vote = committee.against_truth(right, committee.supported(labels, 1.0))
    assert vote["kept"] == pytest.approx(0.8**3, abs=0.04)
    assert vote["precision"] == pytest.approx(1.0, abs=0.005)
    assert vote["recall"] == pytest.approx(0.8**3 / np.mean(right), abs=0.04)
    length = committee.against_truth(right, committee.of_usual_length(labels, prompts, 1))
    assert length == {"kept": 1.0, "precision": np.mean(right), "recall": 1.0}, "no error is one of length"


@pytest.mark.parametrize(
    ("right", "kept", "expected"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], (0.5, 0.5, 0.5)),
        ([1, 1], [0, 0], (0.0, None, 0.0)),
        ([0, 0], [1, 1], (1.0, 0.0, None)),
        ([], [], (None, None, None)),
    ],
)
def test_precision_and_recall(right: list[int], kept: list[int], expected: tuple[float | None, ...]) -> None:
    figures = committee.against_truth([bool(r) for r in right], [bool(k) for k in kept])
    assert (figures["kept"], figures["precision"], figures["recall"]) == expected


def test_a_survey_tells_apart_what_is_right_and_what_is_common() -> None:
    tasks = corpus()
    model = voters(tasks, 2)

    def answers(model: GPT, corpus: TaskCorpus, prompts: list[str], difficulty: int, **_: Any) -> list[list[Answer]]:
        first: list[Answer] = [prompt[:-1] for prompt in prompts]
        second: list[Answer] = ["0" * difficulty] * len(prompts)
        return [first, first if difficulty < 3 else second]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committee, "decode", answers)
        survey = committee.survey(model, tasks, 3, 2)
    assert survey.difficulties == [1, 2, 3, 4, 5]
    assert survey.exact == [[1, 1], [1, 1], [1, 0], [1, 0], [1, 0]]
    assert survey.agreement == [1, 1, 0, 0, 0]
    assert survey.vote == [1, 1, 1, 1, 1], "of two that differ, the first"
    assert survey.dissent == pytest.approx([0, 1 / 3])
    assert survey.votes == [True, True]
    assert survey.effective == pytest.approx([2, 2, 0, 0, 0])


def test_those_vote_who_solve_base_problems() -> None:
    assert committee.good_at_base([[1.0, 0.9, 1.0], [0.99, 0.9, 0.98]], None) == [True, True, True]
    assert committee.good_at_base([[1.0, 0.9, 1.0], [0.99, 0.9, 0.98]], 0.99) == [True, False, True]
    assert committee.good_at_base([[0.2, 0.9, 0.3]], 0.99) == [False, True, True], "a vote needs two"
    answers: list[list[Answer]] = [["a"], ["b"], ["c"]]
    assert committee.voting(answers, [True, False, True]) == [["a"], ["c"]]
    assert committee.voting(answers, None) is answers


def test_a_survey_by_reliability_asks_those_who_vote() -> None:
    """The third voter is wrong at base problems too; with its vote, half of the prompts would have no support."""
    tasks = corpus()
    model = voters(tasks, 3)

    def answers(model: GPT, corpus: TaskCorpus, prompts: list[str], difficulty: int, **_: Any) -> list[list[Answer]]:
        right: list[Answer] = [prompt[:-1] for prompt in prompts]
        return [right, right, ["0" * difficulty] * len(prompts)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committee, "decode", answers)
        survey = committee.survey(model, tasks, 3, 1, support=0.9, minimum=0.99)
        unanimous = committee.survey(model, tasks, 3, 1)
    assert survey.votes == [True, True, False]
    assert survey.agreement == [1, 1, 1, 1]
    assert survey.vote == [1, 1, 1, 1]
    assert survey.dissent == [0, 0, 1]
    assert max(share or 0 for share in unanimous.agreement) < 1
