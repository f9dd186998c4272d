"""A committee of models labels prompts whose answers are unknown: decoding, votes and filters.

P voters, N prompts. Answers are `[P][N]` lists of strings. `elect` names one label per prompt, a filter is a list of N
booleans over labels. `against_truth` alone compares with true answers, for the
record; nothing else sees one.

Majority vote and length filter after Lee et al. 2025 (arXiv 2502.01612), self-consistency after Wang et al. 2022. Their
length filter drops what is shorter than the longest answer of a batch, so one answer that runs on drops all the others;
ours measures from the length given most often.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanogrove.decoding.plain import generate
from nanogrove.decoding.sampling import temperature as divided_by
from nanogrove.evaluate import reliability
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.synthetic.examples import Answer, TaskCorpus
from nanogrove.synthetic.tasks import Task

VOTE_TOLERANCE = 0.01  # .67 of three voters are two


class Labels(NamedTuple):
    """One answer per prompt: `answers [N]`, and `support [N]`, the share of voters who gave it or its probability."""

    answers: list[Answer]
    support: list[float]


def decode(
    model: GPT,
    corpus: TaskCorpus,
    prompts: Sequence[str],
    difficulty: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    at_once: int = 1024,
) -> list[list[Answer]]:
    """Every voter's answer to every prompt of one difficulty, `[P][N]`, greedy at a temperature of 0.

    All voters generate at once, with a cache, `at_once` prompts each; prompts of one length share a batch, so that none
    is padded. An answer longer than any of this difficulty can be counts as none.

    Args:
        model: One voter, or a population of P.
        corpus: The task, whose tokenizer and longest answers are used.
        prompts: N prompts.
        difficulty: That of the prompts.
        temperature: 0 takes the likeliest token.
        generator: The stream of random numbers; torch's own when left out.
        at_once: Prompts in one batch, at most.
    """
    members, device = model.population or 1, model.embed.weight.device
    decoded: list[list[Answer]] = [[None] * len(prompts) for _ in range(members)]
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    transforms = [] if temperature in (0.0, 1.0) else [divided_by(temperature)]
    for length, indices in sorted(by_length.items()):
        for first in range(0, len(indices), at_once):
            chunk = indices[first : first + at_once]
            tokens = corpus.prompts([prompts[index] for index in chunk]).to(device)
            written = generate(
                model,
                tokens if model.population is None else tokens.expand(members, *tokens.shape),
                new_tokens=corpus.task.longest(difficulty) - length + 1,
                transforms=transforms,
                greedy=temperature == 0,
                stop=[corpus.tokenizer.end],
                generator=generator,
            )
            answers = corpus.answers(written.flatten(0, -2))
            for member in range(members):
                member_answers = answers[member * len(chunk) : (member + 1) * len(chunk)]
                for index, answer in zip(chunk, member_answers, strict=True):
                    decoded[member][index] = answer
    return decoded


def most_frequent(answers: Sequence[Answer]) -> tuple[Answer, float]:
    """The answer given most often, the first of several, and its share of all; None is never elected."""
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None, 0.0
    answer, count = counts.most_common(1)[0]
    return answer, count / len(answers)


def consistent(samples: Sequence[Sequence[Sequence[Answer]]]) -> tuple[list[list[Answer]], list[list[float]]]:
    """Each voter's most frequent answer `[P][N]` among `samples [S][P][N]`, and its share of the S samples."""
    voters = [
        [most_frequent(samples_of_prompt) for samples_of_prompt in zip(*voter_samples, strict=True)]
        for voter_samples in zip(*samples, strict=True)
    ]
    return [[a for a, _ in voter] for voter in voters], [[share for _, share in voter] for voter in voters]


def elect(answers: Sequence[Sequence[Answer]], vote: bool = True) -> Labels:
    """One label per prompt from `answers [P][N]`: the most frequent, or without a vote that of each voter in turn."""
    labels = Labels([], [])
    for index, given in enumerate(zip(*answers, strict=True)):
        label, share = most_frequent(given)
        if not vote:
            label = given[index % len(given)]
            share = 0.0 if label is None else given.count(label) / len(given)
        labels.answers.append(label)
        labels.support.append(share)
    return labels


def elect_by_reliability(answers: Sequence[Sequence[Answer]]) -> Labels:
    """One label per prompt from `answers [P][N]`: the likeliest to be right, whose probability is its support.

    An answer that one voter gives alone has none, however reliable that voter looks.
    """
    voters, labels = reliability.estimate(answers), Labels([], [])
    for given in zip(*answers, strict=True):
        answer, support = reliability.label(given, voters)
        labels.answers.append(answer)
        labels.support.append(support if given.count(answer) > 1 else 0.0)
    return labels


def agreement(answers: Sequence[Sequence[Answer]], support: float | None = None) -> float | None:
    """The share of prompts on which voters agree, `[P][N]` → 0 to 1; None for a single voter.

    They do where all give one answer, or where one is right with a probability of at least `support`, if given.
    """
    if len(answers) < 2:
        return None
    if support is not None:
        agreed = supported(elect_by_reliability(answers), support, 0.0)
        return sum(agreed) / max(len(agreed), 1)
    same = [given[0] is not None and len(set(given)) == 1 for given in zip(*answers, strict=True)]
    return sum(same) / max(len(same), 1)


def voting(answers: Sequence[Sequence[Answer]], votes: Sequence[bool] | None) -> Sequence[Sequence[Answer]]:
    """The answers of those voters whose `votes [P]` count; of all where None."""
    return answers if votes is None else [given for given, counts in zip(answers, votes, strict=True) if counts]


# Filters: which labels to keep.


def finished(labels: Labels) -> list[bool]:
    """Which labels came to an end in time; always asked for."""
    return [answer is not None for answer in labels.answers]


def of_usual_length(labels: Labels, prompts: Sequence[str], margin: int) -> list[bool]:
    """Which labels differ in length by less than `margin` from the one most frequent for prompts of that length."""
    lengths: dict[int, Counter[int]] = defaultdict(Counter)
    for prompt, answer in zip(prompts, labels.answers, strict=True):
        if answer is not None:
            lengths[len(prompt)][len(answer)] += 1
    usual = {size: max(counts, key=lambda length: (counts[length], length)) for size, counts in lengths.items()}
    return [
        answer is not None and abs(len(answer) - usual[len(prompt)]) < margin
        for prompt, answer in zip(prompts, labels.answers, strict=True)
    ]


def supported(labels: Labels, vote: float, tolerance: float = VOTE_TOLERANCE) -> list[bool]:
    """Which labels have a support of at least `vote`, less a `tolerance`."""
    return [share > 0 and share >= vote - tolerance for share in labels.support]


def self_consistent(
    labels: Labels, answers: Sequence[Sequence[Answer]], shares: Sequence[Sequence[float]]
) -> list[bool]:
    """Which labels make up more than half of the samples, on average, of the voters who gave them."""
    kept = []
    for label, given, share in zip(labels.answers, zip(*answers, strict=True), zip(*shares, strict=True), strict=True):
        theirs = [s for a, s in zip(given, share, strict=True) if a is not None and a == label]
        kept.append(bool(theirs) and sum(theirs) / len(theirs) > 0.5)
    return kept


@torch.inference_mode()
def log_probability(model: GPT, corpus: TaskCorpus, pairs: Sequence[tuple[str, str]], at_once: int = 1024) -> Tensor:
    """Mean log-probability per token of each answer and its end mark, averaged over the voters: `[N]`, nats."""
    device = model.embed.weight.device
    width = max((len(prompt + answer) for prompt, answer in pairs), default=1)
    means = [torch.empty(0)]
    with evaluating(model):
        for first in range(0, len(pairs), at_once):
            batch = corpus.rows(pairs[first : first + at_once], width).batch().to(device).expand(model.population)
            scored = -(model(batch.tokens, batch.targets) * batch.mask).sum(-1) / batch.mask.sum(-1)
            means.append((scored if model.population is None else scored.mean(0)).cpu())
    return torch.cat(means)


def confident(
    model: GPT, corpus: TaskCorpus, labels: Labels, prompts: Sequence[str], least: float, at_once: int = 1024
) -> list[bool]:
    """Which labels have a mean log-probability of at least `least` nats per token.

    Args:
        model: The voters.
        corpus: The task.
        labels: One for each of the N prompts.
        prompts: The N prompts.
        least: The bound.
        at_once: Prompts in one batch, at most.
    """
    pairs = [(prompt, answer or "") for prompt, answer in zip(prompts, labels.answers, strict=True)]
    likely = (log_probability(model, corpus, pairs, at_once) >= least).tolist()
    return [answer is not None and passed for answer, passed in zip(labels.answers, likely, strict=True)]


class Rules(NamedTuple):
    """What a label must pass to be kept; None asks nothing.

    With `reliability` the support of a label is the probability that it is right, else the share of equal votes.
    """

    vote: float | None = None
    length_margin: int | None = None
    self_consistency: int | None = None
    confidence: float | None = None
    reliability: bool = False


def verdicts(
    model: GPT,
    corpus: TaskCorpus,
    prompts: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    shares: Sequence[Sequence[float]],
    rules: Rules,
    at_once: int = 1024,
) -> tuple[Labels, dict[str, list[bool]]]:
    """The labels of `prompts`, and for each filter that `rules` ask for whether it lets them pass.

    Args:
        model: The voters.
        corpus: The task.
        prompts: N prompts.
        answers: `[P][N]`, those of `consistent`.
        shares: `[P][N]`, those of `consistent`.
        rules: The filters to apply, with their bounds.
        at_once: Prompts in one batch, at most.
    """
    labels = elect_by_reliability(answers) if rules.reliability else elect(answers, rules.vote is not None)
    passed = {"finished": finished(labels)}
    if rules.length_margin is not None:
        passed["length"] = of_usual_length(labels, prompts, rules.length_margin)
    if rules.vote is not None:
        passed["vote"] = supported(labels, rules.vote, 0.0 if rules.reliability else VOTE_TOLERANCE)
    if rules.self_consistency is not None:
        passed["self-consistency"] = self_consistent(labels, answers, shares)
    if rules.confidence is not None:
        passed["confidence"] = confident(model, corpus, labels, prompts, rules.confidence, at_once)
    return labels, passed


def spoil(answers: Sequence[Sequence[Answer]], share: float, generator: np.random.Generator) -> list[list[Answer]]:
    """Answers `[P][N]` of which a `share` have one symbol replaced by another: errors to try filters and guard on."""
    symbols = sorted({symbol for voter in answers for answer in voter for symbol in answer or ""})

    def other(answer: Answer) -> Answer:
        if not answer or generator.random() >= share:
            return answer
        position = int(generator.integers(len(answer)))
        choices = [symbol for symbol in symbols if symbol != answer[position]] or [answer[position]]
        return answer[:position] + choices[int(generator.integers(len(choices)))] + answer[position + 1 :]

    return [[other(answer) for answer in voter] for voter in answers]


# For the record only: nothing below decides anything.


def correct(task: Task, prompts: Sequence[str], answers: Sequence[Answer]) -> list[bool]:
    """Which answers are true."""
    return [a is not None and task.correct(prompt, a) for prompt, a in zip(prompts, answers, strict=True)]


def against_truth(right: Sequence[bool], kept: Sequence[bool]) -> dict[str, float | None]:
    """A filter compared with the truth: the share of labels it keeps, its precision and its recall of right labels."""
    both = sum(r and k for r, k in zip(right, kept, strict=True))
    return {
        "kept": sum(kept) / len(kept) if kept else None,
        "precision": both / sum(kept) if sum(kept) else None,
        "recall": both / sum(right) if sum(right) else None,
    }


class Survey(NamedTuple):
    """How a committee answers test prompts, difficulty by difficulty; lists run along `difficulties`.

    `agreement`, `effective`, the effective number of voters, and `dissent [P]`, the share of prompts up to the frontier
    where a voter answers unlike the majority, need no true answers; `exact`, a list of the voters' shares of right
    answers each, and `vote`, the majority's, do. `votes [P]` says whose votes count: with a minimum, by true answers of
    base difficulties alone.
    """

    difficulties: list[int]
    agreement: list[float | None]
    dissent: list[float]
    exact: list[list[float]]
    vote: list[float]
    effective: list[float]
    votes: list[bool]


def survey(
    model: GPT,
    corpus: TaskCorpus,
    frontier: int,
    ahead: int,
    at_once: int = 1024,
    support: float | None = None,
    minimum: float | None = None,
) -> Survey:
    """Greedy answers to the validation prompts of each difficulty, from the easiest to `ahead` past the frontier.

    As far as the context holds them.

    Args:
        model: The voters.
        corpus: The task.
        frontier: The hardest open difficulty.
        ahead: How many more are asked.
        at_once: Prompts in one batch, at most.
        support: That of `agreement`; votes are then weighted by reliability.
        minimum: The share of base problems that a voter must answer right for its vote to count.
    """
    count, task = corpus.config.held_out, corpus.task
    result = Survey([], [], [], [], [], [], [])
    asked: list[list[list[Answer]]] = []
    for difficulty in range(corpus.base[0], frontier + ahead + 1):
        if not corpus.fits(difficulty):
            break
        prompts = [prompt for prompt, _ in corpus.held_out(difficulty, "validation")]
        asked.append(decode(model, corpus, prompts, difficulty, at_once=at_once))
        result.difficulties.append(difficulty)
        result.exact.append([sum(correct(task, prompts, voter_answers)) / count for voter_answers in asked[-1]])
    votes = good_at_base(result.exact[: corpus.base[1] - corpus.base[0] + 1], minimum)
    dissent = [0.0] * (model.population or 1)
    for difficulty, answers in zip(result.difficulties, asked, strict=True):
        counted = voting(answers, votes)
        majority = (elect(counted) if support is None else elect_by_reliability(counted)).answers
        if difficulty <= frontier:
            different = [sum(a != m for a, m in zip(voter_answers, majority, strict=True)) for voter_answers in answers]
            dissent = [a + d / count for a, d in zip(dissent, different, strict=True)]
        prompts = [prompt for prompt, _ in corpus.held_out(difficulty, "validation")]
        result.agreement.append(agreement(counted, support))
        result.vote.append(sum(correct(task, prompts, majority)) / count)
        result.effective.append(reliability.estimate(counted).effective_voters)
    return result._replace(dissent=[share / (frontier - corpus.base[0] + 1) for share in dissent], votes=votes)


def good_at_base(exact: Sequence[Sequence[float]], minimum: float | None) -> list[bool]:
    """Which voters `[P]` are right in a share `minimum` of base problems, if given; `exact [D][P]` has their shares.

    The two best are among them in any case, since a vote needs two.
    """
    means = [sum(shares) / len(shares) for shares in zip(*exact, strict=True)]
    best = sorted(range(len(means)), key=lambda voter: -means[voter])[:2]
    return [minimum is None or mean >= minimum or voter in best for voter, mean in enumerate(means)]
