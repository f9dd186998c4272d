"""What a transformer learns of random grammars, against the exact best loss.

    python benchmarks/grammar_study.py rlm | source | rhm [--picture picture.html] [KEY=VALUE …]

`rlm`: excess loss over the number of training tokens for depths 1, 2 and 3 of a Random Language Model with v = 32,
beta = 2, all tokens scored, by the preset `rlm-deep`. `source`: the same depths by the recipe of the preset `rlm` (1
layer, width 64, SGD), last token scored. `rhm`: the test loss and accuracy of a Random Hierarchy Model's last token,
over the size P of a fixed training set in units of its sample complexities P_l, over several sets of rules. Each of its
runs is added to `--record` when it ends and is not done again where it stands there.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import plotly.graph_objects as go
from scipy import stats

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.record.events import Event
from nanogrove.runs.score import evaluate
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.synthetic.rhm import RandomHierarchyModel


def trained(preset: str, *overrides: str) -> tuple[list[Event], dict[str, Any], float]:
    """The evaluations of a run, the score of its best model on the test split, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        events = list(train(resolve(read_preset_file(preset), ["save.snapshots=false", *overrides]), out))
        seconds = time.perf_counter() - began
        return [event for event in events if event.kind == "eval"], evaluate(out), seconds


def rlm(figure: go.Figure, steps: int, overrides: list[str], preset: str = "rlm-deep") -> None:
    print("depth      tokens   loss    best    bigram  excess             KL of the last   seconds")
    curves = []
    for depth in (1, 2, 3):
        settings = (f"data.L={depth}", "data.v=32", f"model.block_size={2**depth}", f"train.steps={steps}", *overrides)
        evaluations, score, seconds = trained(preset, *settings)
        data = build(resolve(read_preset_file(preset), settings)).corpus.describe()
        seen = [event.values["seen"] for event in evaluations]
        excess = [event.values["excess"] for event in evaluations]
        print(
            f"{depth:>5}  {seen[-1]:>10,}  {score['loss']:.4f}  {score['bayes_loss']:.4f}  {data['bigram_loss']:.4f}  "
            f"{score['excess']:.4f} ± {score['excess_error']:.4f}    {score['kl'][-1]:.4f}          {seconds:.0f}",
            flush=True,
        )
        curves.append(f"depth {depth}: " + ", ".join(f"{t:,}: {e:.3f}" for t, e in zip(seen, excess, strict=True)))
        figure.add_scatter(x=seen, y=excess, name=f"L = {depth}")
    print("excess by training tokens", *curves, sep="\n")
    figure.update_layout(xaxis_title="training tokens", yaxis_title="excess loss, nats")
    figure.update_yaxes(type="log")


class Trained(NamedTuple):
    """The best model of a run on a Random Hierarchy Model, on its test split."""

    rule_seed: int
    size: int
    steps: int
    loss: float
    bayes_loss: float
    excess: float
    accuracy: float
    bayes_accuracy: float
    overlap: dict[str, float]
    seconds: float


def rhm_run(rule_seed: int, size: int, steps: int, overrides: list[str]) -> Trained:
    """Rules, initial weights and the order of the training set differ from one rule seed to the next."""
    settings = (
        f"data.training_set={size}",
        f"data.seed_rules={12345 + rule_seed}",
        f"seed={rule_seed}",
        f"train.steps={steps}",
        "evaluate.every=100",
        *overrides,
    )
    _, score, seconds = trained("rhm", *settings)
    figures = {name: score[name] for name in ("loss", "bayes_loss", "excess", "accuracy", "bayes_accuracy")}
    return Trained(rule_seed, size, steps, **figures, overlap=score["overlap"], seconds=seconds)


def rhm(figure: go.Figure, steps: int, sizes: list[int], rule_seeds: int, record: Path, overrides: list[str]) -> None:
    done = [Trained(**json.loads(line)) for line in record.read_text().splitlines()] if record.exists() else []
    for rule_seed in range(rule_seeds):
        for size in sizes:
            if not any((run.rule_seed, run.size, run.steps) == (rule_seed, size, steps) for run in done):
                done.append(rhm_run(rule_seed, size, steps, overrides))
                with record.open("a") as file:
                    file.write(json.dumps(done[-1]._asdict()) + "\n")
    runs = [run for run in done if run.steps == steps and run.rule_seed < rule_seeds]
    v, m, s, depth = 16, 4, 2, 3
    scales = RandomHierarchyModel(v, m, s, depth).sample_complexity()
    print(f"v={v} m={m} s={s} L={depth}: P_l = {', '.join(f'{scale:,.0f}' for scale in scales)}")
    print(f"{steps} steps, {rule_seeds} rule seeds: means, and t intervals of 95 % over rule seeds")
    levels = " | ".join(f"P/P_{level}" for level in range(1, depth + 1))
    print(f"| training sequences P | {levels} | test loss | excess | accuracy |")
    print("|---" * (4 + depth) + "|")
    for size in sizes:
        at_size = [run for run in runs if run.size == size]
        shares = " | ".join(f"{size / scale:.2g}" for scale in scales)
        figures = " | ".join(
            interval([getattr(run, name) for run in at_size]) for name in ("loss", "excess", "accuracy")
        )
        print(f"| {size:,} | {shares} | {figures} |")
    print(f"best loss {interval([run.bayes_loss for run in runs if run.size == sizes[0]])}, ", end="")
    print(f"best accuracy {interval([run.bayes_accuracy for run in runs if run.size == sizes[0]])}; ", end="")
    print(f"overlap of test and training set at most {max(max(run.overlap.values()) for run in runs):.3f}; ", end="")
    print(f"{sum(run.seconds for run in runs):,.0f} s")
    for rule_seed in range(rule_seeds):
        curve = sorted((run.size, run.excess) for run in runs if run.rule_seed == rule_seed)
        figure.add_scatter(x=[size for size, _ in curve], y=[excess for _, excess in curve], name=f"rules {rule_seed}")
    for level, scale in enumerate(scales, start=1):
        figure.add_vline(x=scale, line_dash="dash")  # an annotation's place on a logarithmic axis is a logarithm
        figure.add_annotation(
            x=math.log10(scale), y=1, yref="paper", xanchor="left", text=f"P_{level}", showarrow=False
        )
    figure.update_layout(xaxis_title="training sequences P", yaxis_title="excess loss of the last token, nats")


def interval(values: list[float]) -> str:
    """A mean with half the width of its t interval of 95 %."""
    if len(values) < 2:
        return f"{mean(values):.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("rlm", "source", "rhm"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4**n for n in range(4, 9)], help="of rhm: P")
    parser.add_argument("--picture", type=Path, help="also draw it, as a page")
    parser.add_argument("--steps", type=int, help="steps of each run of ours; 4,000 of rlm and 800 of rhm if left out")
    parser.add_argument("--rule-seeds", type=int, default=4, help="of rhm: sets of rules, each with a seed of its own")
    parser.add_argument("--record", type=Path, default=Path("rhm.jsonl"), help="of rhm: the runs so far, one a line")
    options = parser.parse_args()
    figure = go.Figure()
    steps = options.steps or {"rlm": 4000, "source": 30000, "rhm": 800}[options.study]
    if options.study == "rhm":
        rhm(figure, steps, options.sizes, options.rule_seeds, options.record, options.overrides)
    else:
        rlm(figure, steps, options.overrides, {"rlm": "rlm-deep", "source": "rlm"}[options.study])
    figure.update_xaxes(type="log")
    figure.update_layout(template="plotly_white", width=900, height=480, margin={"t": 20, "r": 20})
    if options.picture:
        figure.write_html(options.picture, include_plotlyjs=True, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
