"""Labels of a round: every voter answers new prompts, and filters and a vote choose which answers to keep."""

from collections.abc import Sequence
from itertools import compress

import torch
from typing_extensions import TypedDict

from nanogrove.data.rng import derived_seed, random
from nanogrove.evaluate import committee, reliability
from nanogrove.methods.self_improve.config import Config
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Values
from nanogrove.synthetic.examples import Answer, Rows, TaskCorpus


class LabelRow(TypedDict):
    """A label as the run folder holds it."""

    prompt: str
    answer: str
    difficulty: int


class Labelled(TypedDict):
    """The labels that passed all filters, and figures of all labels of their difficulty, for the record."""

    rows: list[LabelRow]
    figures: Values


def label(
    model: GPT,
    corpus: TaskCorpus,
    config: Config,
    seed: int,
    slot: int,
    difficulty: int,
    count: int,
    strict: bool,
    votes: Sequence[bool] | None = None,
    inherited: float = 1.0,
) -> Labelled:
    """Labels `count` new prompts of one difficulty.

    Args:
        model: the voters, a population.
        corpus: the task; its true answers go into the figures alone.
        config: which filters and vote to apply.
        seed: of the run.
        slot: the number of the round, from 0; prompts and samples depend on it.
        difficulty: of the prompts.
        count: how many prompts are labelled.
        strict: whether the vote is the stricter one of a retry.
        votes: which voters' votes count, `[P]`; all where None.
        inherited: the product of the consensus of the rounds before (`evaluate/reliability.py`).
    """
    questions = corpus.examples(difficulty, "train", f"round-{slot + 1}", range(count))
    prompts = [prompt for prompt, _ in questions]  # the true answers are not looked at
    answers, shares = committee.consistent(_samples(model, corpus, config, seed, slot, difficulty, prompts))
    if config.inject:
        answers = committee.spoil(answers, config.inject, random(seed, "inject", slot, difficulty))
    voters, by_reliability = reliability.estimate(answers), config.votes == "reliability"
    if votes is not None:
        answers, shares = list(compress(answers, votes)), list(compress(shares, votes))
    vote = config.stricter_vote() if strict else config.vote
    rules = committee.Rules(
        vote, config.length_margin, config.self_consistency, config.confidence, reliability=by_reliability
    )
    labels, filters = committee.verdicts(model, corpus, prompts, answers, shares, rules, config.decode_batch)
    passed = [all(verdicts) for verdicts in zip(*filters.values(), strict=True)]
    rows: list[LabelRow] = [
        {"prompt": prompt, "answer": answer, "difficulty": difficulty}
        for prompt, answer, keep in zip(prompts, labels.answers, passed, strict=True)
        if keep and answer is not None
    ]
    right = committee.correct(corpus.task, prompts, labels.answers)
    counting = voters if votes is None else reliability.estimate(answers)
    expected, consensus = _expected(answers, counting, passed, voted=vote is not None)
    figures = {
        "difficulty": difficulty,
        "prompts": count,
        "agreement": committee.agreement(answers, config.support),
        "effective": counting.effective_voters,
        "support": sum(labels.support) / count if count else None,
        "reliability": voters.right,
        "trust": None if expected is None else inherited * expected,
        "consensus": consensus,
        "labels_right": sum(right) / count if count else None,
        **committee.against_truth(right, passed),
        "filters": {name: committee.against_truth(right, verdict) for name, verdict in filters.items()},
    }
    return {"rows": rows, "figures": figures}


def _expected(
    answers: Sequence[reliability.Given], voters: reliability.Reliability, passed: Sequence[bool], voted: bool
) -> tuple[float | None, float | None]:
    """The share of the labels that are right, as the `answers [P][N]` say, and the voters' consensus on all prompts.

    None where there are no labels or no prompts, and for a single voter, whom nobody confirms.
    """
    if len(answers) < 2 or not passed:
        return None, None
    prompts = list(zip(*answers, strict=True))
    mean = sum(voters.right) / len(voters.right)
    labelled = reliability.consensus(compress(prompts, passed), voters) if voted else mean
    return labelled, reliability.consensus(prompts, voters)


def _samples(
    model: GPT, corpus: TaskCorpus, config: Config, seed: int, slot: int, difficulty: int, prompts: list[str]
) -> list[list[list[Answer]]]:
    """All voters' answers to `prompts`, `self_consistency` samples of each: `[samples][P][N]`."""
    samples = []
    for sample in range(config.self_consistency or 1):
        generator = torch.Generator(model.embed.weight.device)
        generator.manual_seed(derived_seed(seed, "decode", slot, difficulty, sample))
        samples.append(
            committee.decode(model, corpus, prompts, difficulty, config.temperature, generator, config.decode_batch)
        )
    return samples


def check_row(corpus: TaskCorpus, difficulties: Sequence[int], row: LabelRow) -> None:
    """Raises ValueError or DataError where a row that was read back is no label of one of these difficulties."""
    text = row["prompt"] + row["answer"]
    if row["difficulty"] not in difficulties:
        raise ValueError(f"difficulty {row['difficulty']} is none of that round")
    if len(text) > corpus.task.longest(row["difficulty"]):
        raise ValueError("the label is longer than any of its difficulty")
    corpus.tokenizer.encode(text)


def label_tokens(corpus: TaskCorpus, rows: list[LabelRow]) -> Rows:
    """Labels as rows of tokens, as wide as the longest."""
    pairs = [(row["prompt"], row["answer"]) for row in rows]
    return corpus.rows(pairs, max(len(prompt + answer) for prompt, answer in pairs))
