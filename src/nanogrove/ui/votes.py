"""The votes of a committee, or of any run with several members: each continues a prompt by its likeliest tokens."""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from nanogrove.data.chat.conversations import Message
from nanogrove.errors import DivergedError
from nanogrove.language_model import LanguageModel
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack
from nanogrove.model.mode import evaluating
from nanogrove.train.checkpoint import load_latest
from nanogrove.train.weights import load_weights

MOST_VOTERS = 64  # each of which writes a text
MOST_SCORES = 1 << 24  # of all tokens at all positions, that are computed at a time for votes by token: 64 MB
Event = dict[str, object]


def read_voters(run: Path) -> list[LanguageModel]:
    """The members of a run as they were last saved; none where it has one model alone. Raises CheckpointError."""
    checkpoint, _ = load_latest(run / "checkpoints")
    if checkpoint is None or checkpoint.model["embed.weight"].dim() == 2 or checkpoint.config.scalar:
        return []
    voters = []
    for number in range(len(checkpoint.model["embed.weight"])):
        model = GPT(checkpoint.config)
        load_weights(model, unstack(checkpoint.model, number), checkpoint.folder)
        voters.append(LanguageModel(model, checkpoint.tokenizer))
    return voters


def count_votes(
    voters: Sequence[LanguageModel], prompt: str | Sequence[Message], tokens: int, stop: Sequence[str]
) -> Generator[list[Event], None, None]:
    """Yields the events of a count, step by step: `voting`, the share of it that is done, and at its end `votes`.

    Those are pairs of a count and a text, the most frequent first, and of equal ones that of the first voter. A voter
    whose scores are NaN or infinite has no vote.
    """
    votes = Counter[str]()
    for number, voter in enumerate(voters):
        text = ""
        try:
            with closing(voter.steps(prompt, tokens, temperature=0, stop=stop)) as steps:
                for count, step in enumerate(steps, start=1):
                    text += step.text
                    yield [{"voting": (number + count / tokens) / len(voters)}]
        except DivergedError:
            continue
        votes[text] += 1
    yield [{"votes": [(count, text) for text, count in votes.most_common()], "voters": len(voters)}]


@torch.inference_mode()
def votes_by_token(voters: Sequence[LanguageModel], prompt: Sequence[int], new: Sequence[int]) -> list[Counter[int]]:
    """How many voters find which token the likeliest at the position of each of the `new` ones, given all before it.

    One call of each model reads the whole text. Empty where that is more than the context holds, is much for a large
    vocabulary, or the model has a rolling memory.
    """
    if not voters or not new:
        return []
    config = voters[0].model.config
    if len(prompt) + len(new) - 1 > config.block_size or len(new) * (config.vocab_size or 1) > MOST_SCORES:
        return []
    if config.memory_tokens:
        return []
    tokens, counts = torch.tensor([[*prompt, *new[:-1]]]), [Counter[int]() for _ in new]
    for voter in voters:
        with evaluating(voter.model):
            scores = voter.model.logits(voter.model.hidden(tokens)[:, len(prompt) - 1 :])[0]
        for count, position in zip(counts, scores, strict=True):
            if bool(position.amax().isfinite()):
                count[int(position.argmax())] += 1
    return counts
