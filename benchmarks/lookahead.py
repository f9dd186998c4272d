"""Value head and lookahead against the truth, on random grammars where both are computed exactly.

    python benchmarks/lookahead.py --out FOLDER [--seeds 0 1 2 3 4 5 6 7] [--steps 2000]

Random Language Models of 8 symbols and 16 tokens a sequence, each seed another grammar; a model of 3 x 96 with value,
dynamics and policy heads.

1. The value against the exact expectation of what it predicts, the mean loss of the next 4 tokens: over all 8^4
   continuations, weighted by the grammar, of the model's own loss (`model`) and of the best loss there is (`grammar`).
   Told are correlations over held-out prefixes of 1 to 12 tokens, and what is left of the first when the mean of each
   position is taken away.
2. Ten tokens written after every prompt of two, and what the grammar says of them: log-probability, nats, the mean
   over prompts weighted by theirs. At N model calls per token: lookahead, and of N samples the one that is likeliest to
   the model. Beside them greedy decoding, by the model and by the grammar, and the grammar's own beam of 512.

Figures are means over grammars with the smallest and the largest; grammars differ by nats, so that ways to write are
compared within each: beside a figure stands by how much it is above greedy's, with
Student's interval and the p value of the exact sign-flip test over grammars. Runs lie in FOLDER; one that is there is
only read.
"""

import argparse
import itertools
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogrove.config.overrides import resolve
from nanogrove.decoding.lookahead import lookahead
from nanogrove.decoding.loop import decode
from nanogrove.decoding.plain import generate
from nanogrove.decoding.sampling import Sampler
from nanogrove.language_model import load
from nanogrove.model.gpt import GPT
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.studies.statistics import sign_flip, t_interval
from nanogrove.synthetic.tree import TreeGrammar

V, HORIZON, PROMPT, NEW = 8, 4, 2, 10
PREFIXES = 8  # of each length
BUDGETS = (1, 2, 4, 8)
BEAM = 512
PRESET: dict[str, Any] = {
    "name": "lookahead",
    "data": {"type": "rlm", "v": V, "L": 4, "beta": 1.5, "targets": "all"},
    "model": {"family": "llama", "n_layer": 3, "n_head": 4, "n_embd": 96, "block_size": 16},
    "auxiliary": {
        "enable_value": True,
        "enable_dynamics": True,
        "enable_policy": True,
        "policy_target": "search",
        "value_horizon": HORIZON,
        "dynamics_rollouts": 3,
    },
    "train": {"batch_size": 128, "threads": 1, "precision": "float32", "accumulation": 1, "compile": False},
    "optimizer": {"name": "muon", "lr": 0.02, "adamw_lr": 0.005, "weight_decay": 0.0},
    "schedule": {"name": "wsd", "warmup": 20, "decay": 0.5, "final": 0.0},
    "evaluate": {"every": 500, "tokens": 16384},
    "sample": {"tokens": 0},
    "save": {"every": 1000},
}


def begun(sequences: Tensor) -> Tensor:
    """Inputs of a model that read these sequences: the mark of a beginning stands ahead."""
    return torch.cat([torch.full_like(sequences[:, :1], V), sequences], 1)


def nll(model: GPT, sequences: Tensor) -> Tensor:
    """The model's loss `[N, T]` on each token of sequences."""
    pieces = torch.split(sequences, 8192)
    return torch.cat([model(begun(piece)[:, :-1], piece).double() for piece in pieces])


def expected(model: GPT, grammar: TreeGrammar, prefix: Tensor) -> tuple[float, float]:
    """Expected mean loss of the HORIZON tokens after a prefix `[t]`: the model's, and the least there is."""
    ahead = torch.cartesian_prod(*[torch.arange(V)] * HORIZON)
    whole = torch.cat([prefix.expand(len(ahead), -1), ahead], 1)
    filled = torch.cat([whole, torch.zeros(len(whole), grammar.T - whole.shape[1], dtype=torch.int64)], 1)
    span = slice(len(prefix), len(prefix) + HORIZON)
    truth = grammar.next_token_log_probs(filled)[:, span]
    weight = truth.sum(1).exp()
    loss = nll(model, whole)[:, span].mean(1)
    entropy = torch.where(weight > 0, -truth.sum(1) / HORIZON, 0.0)
    return float(weight @ loss), float(weight @ entropy)


def correlation(a: list[float], b: list[float]) -> float:
    return statistics.correlation(a, b)


def values(lm: Any, grammar: TreeGrammar, held_out: Tensor) -> dict[str, float]:
    """The correlations of the header."""
    predicted, model_losses, best, places = [], [], [], []
    for length in range(1, grammar.T - HORIZON + 1):
        prefixes = held_out[:PREFIXES, :length]
        states = lm.model.hidden(begun(prefixes))[:, -1]
        predicted += lm.heads.value(states).tolist()
        for prefix in prefixes:
            loss, least = expected(lm.model, grammar, prefix)
            model_losses.append(loss)
            best.append(least)
        places += [length] * PREFIXES

    def apart(figures: list[float]) -> list[float]:
        means = {p: statistics.mean(f for f, q in zip(figures, places, strict=True) if q == p) for p in set(places)}
        return [figure - means[place] for figure, place in zip(figures, places, strict=True)]

    return {
        "value and model": correlation(predicted, model_losses),
        "value and grammar": correlation(predicted, best),
        "value and model, position apart": correlation(apart(predicted), apart(model_losses)),
    }


def likeliest(grammar: TreeGrammar, prompts: Tensor, beam: int) -> Tensor:
    """What a beam of the exact distribution writes after each prompt; of one text it is greedy."""
    best_texts = []
    for prompt in prompts:
        texts, scores = prompt[None], torch.zeros(1, dtype=torch.float64)
        for _ in range(NEW):
            filled = torch.cat([texts, torch.zeros(len(texts), grammar.T - texts.shape[1], dtype=torch.int64)], 1)
            following = grammar.next_token_distributions(filled)[:, texts.shape[1]].log()
            scores, places = (scores[:, None] + following).flatten().topk(min(beam, following.numel()))
            texts = torch.cat([texts[places // V], places[:, None] % V], 1)
        best_texts.append(texts[0])
    return torch.stack(best_texts)


def texts(lm: Any, grammar: TreeGrammar, prompts: Tensor, seed: int) -> dict[str, Tensor]:
    """What each way writes after the prompts, prompts included."""
    given = begun(prompts)
    written = {"greedy": generate(lm.model, given, new_tokens=NEW, greedy=True)}
    for budget in BUDGETS:
        strategy = lookahead(lm.model, lm.heads, budget)
        written[f"lookahead, {budget}"] = decode(strategy, given, new_tokens=NEW, sampler=Sampler(temperature=0))
        generator = torch.Generator().manual_seed(seed)
        many = given.repeat_interleave(budget, 0)
        drawn = torch.cat([many[:, 1:], generate(lm.model, many, new_tokens=NEW, generator=generator)], 1)
        scores = -nll(lm.model, drawn)[:, PROMPT:].sum(1)
        best = scores.view(-1, budget).argmax(1) + torch.arange(len(prompts)) * budget
        written[f"best of {budget}"] = drawn[best, PROMPT:]
    return {name: torch.cat([prompts, new], 1) for name, new in written.items()}


def shown(figures: list[float]) -> str:
    return f"{statistics.mean(figures):>8.3f} ({min(figures):.3f} to {max(figures):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5, 6, 7])
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures_by_name: dict[str, list[float]] = defaultdict(list)
    scored: dict[str, list[float]] = defaultdict(list)
    prompts = torch.tensor(list(itertools.product(range(V), repeat=PROMPT)))
    for seed in options.seeds:
        changes = [f"seed={seed}", f"data.seed_rules={seed}", f"train.steps={options.steps}"]
        chosen = resolve(PRESET, changes)
        out = options.out / f"seed-{seed}"
        if not (out / "report.html").exists():
            for _ in train(chosen, out, resume=(out / "preset.json").exists()):
                pass
        lm, corpus = load(out), build(chosen).corpus
        grammar: TreeGrammar = corpus.grammar  # type: ignore[attr-defined]
        padded = torch.cat([prompts, torch.zeros(len(prompts), grammar.T - PROMPT, dtype=torch.int64)], 1)
        weight = grammar.next_token_log_probs(padded)[:, :PROMPT].sum(1).exp()
        with torch.inference_mode():
            for name, figure in values(lm, grammar, next(corpus.eval_batches("validation")).targets).items():
                figures_by_name[name].append(figure)
            written = texts(lm, grammar, prompts, seed)
        written["greedy by the grammar"] = likeliest(grammar, prompts, 1)
        written[f"beam of {BEAM} by the grammar"] = likeliest(grammar, prompts, BEAM)
        for name, whole in written.items():
            filled = torch.cat([whole, torch.zeros(len(whole), grammar.T - whole.shape[1], dtype=torch.int64)], 1)
            truth = grammar.next_token_log_probs(filled)[:, PROMPT : PROMPT + NEW].sum(1)
            possible = weight > 0
            scored[name].append(float(weight[possible] @ truth[possible] / weight.sum()))
    print("correlation of the value with the exact expected loss of the next 4 tokens")
    for name, figures in figures_by_name.items():
        print(f"  {name:<36}{shown(figures)}")
    print(f"exact log-probability of {NEW} tokens, nats; what that is above greedy's, its 95 % interval, exact p")
    for name, figures in scored.items():
        above = [figure - plain for figure, plain in zip(figures, scored["greedy"], strict=True)]
        low, high = t_interval(above, 0.05)
        print(f"  {name:<36}{shown(figures):<32}{shown(above):<32}{low:.3f} to {high:.3f}, p = {sign_flip(above):.3f}")


if __name__ == "__main__":
    main()
