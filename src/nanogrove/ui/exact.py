"""What a grammar says of the next token beside what its model says, while a text is written."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import DataError, RunError
from nanogrove.record.folder import read_preset
from nanogrove.synthetic.corpus import RLMConfig, grammar_config, is_grammar, number_tokenizer
from nanogrove.synthetic.tree import Prefix, TreeGrammar

SHOWN = 5  # of the likeliest tokens, by the model and by the grammar
MOST_RULES = 1 << 24  # of a grammar whose rules are kept: 128 MB
TOO_LARGE = "The grammar of this run has too many rules for the exact distribution to be shown here."
Event = dict[str, object]


class Beside:
    """Compares a model with its grammar token by token, from the tokens of a prompt on."""

    def __init__(self, grammar: TreeGrammar, prompt: Sequence[int], end: int) -> None:
        self._prefix = Prefix(grammar)
        first = max((at + 1 for at, token in enumerate(prompt) if token == end), default=0)
        for token in prompt[first:]:
            self._prefix.append(token)

    def event(self, token: int, scores: Tensor, name: Callable[[int], str]) -> Event:
        """The figures of the position at which `token` was chosen, by the model's scores `[V]`; then goes on after it.

        `exact` has the likeliest tokens, each with its probability by the model and by the grammar; None where the
        grammar says nothing: after a whole sequence, and after what cannot occur. In nats, `excess` is KL(exact ‖
        model), whose mean is the excess loss, and `kl` is KL(model ‖ exact) among tokens that can occur; `impossible`
        is the probability that the model gives to all others, for which the latter would be infinite.
        """
        exact = self._prefix.next_distribution()
        self._prefix.append(token)
        if exact is None:
            return {"exact": None}
        ours, possible = scores.double().cpu().log_softmax(-1), exact > 0
        p, log_q = exact[possible], ours[: len(exact)][possible]
        mass = log_q.logsumexp(-1)
        excess, q = (p * (p.log() - log_q)).sum(), (log_q - mass).exp()
        kl = (q * (log_q - mass - p.log())).sum()
        theirs = torch.zeros_like(ours)
        theirs[: len(exact)] = exact
        chosen = {*ours.topk(min(SHOWN, len(ours))).indices.tolist(), *exact.topk(min(SHOWN, len(p))).indices.tolist()}
        order = sorted(chosen, key=lambda each: (-float(theirs[each]), -float(ours[each])))
        return {
            "exact": [(name(each), round(float(ours[each].exp()), 6), round(float(theirs[each]), 6)) for each in order],
            "kl": round(float(kl), 6),
            "excess": round(float(excess), 6),
            "impossible": round(max(1 - float(mass.exp()), 0.0), 6),
        }


def grammar_of(run: Path, tokenizer: Tokenizer) -> tuple[TreeGrammar | None, str]:
    """The grammar that a run learns, and why there is none to compare with, where its rules are too many."""
    try:
        data = (read_preset(run) or {}).get("data")
    except RunError as error:  # its model writes without it
        return None, f"Whether this run learns a grammar is not known: {error}"
    config = grammar_config(data) if is_grammar(data) else None
    if config is None or number_tokenizer(config.v).to_json() != tokenizer.to_json():
        return None, ""
    rules = config.v**3 if isinstance(config, RLMConfig) else config.L * config.v * config.m * config.s
    if rules > MOST_RULES:
        return None, TOO_LARGE
    try:
        return _grammar(json.dumps(data)), ""
    except DataError:  # sizes that no training can have had
        return None, ""


@lru_cache(2)
def _grammar(data: str) -> TreeGrammar | None:
    config = grammar_config(json.loads(data))
    return None if config is None else config.grammar()
