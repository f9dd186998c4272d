"""What a transformer learns of random grammars, against the exact best loss.

    python benchmarks/grammar_study.py rlm | source | rhm [--picture picture.html] [KEY=VALUE …]

`rlm`: excess loss over the number of training tokens for depths 1, 2 and 3 of a Random Language Model with v = 32,
beta = 2, all tokens scored, by the preset `rlm-deep`. `source`: the same depths by the recipe of the preset `rlm` (1
layer, width 64, SGD), last token scored. `rhm`: the test loss and accuracy of a Random Hierarchy Model's last token,
over the size P of a fixed training set in units of its sample complexities P_l.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from nanogrove import lab
from nanogrove.parts import build
from nanogrove.preset import read_preset_file, resolve
from nanogrove.record.events import Event
from nanogrove.synthetic.rhm import RandomHierarchyModel


def train(preset: str, *overrides: str) -> tuple[list[Event], dict[str, Any], float]:
    """The evaluations of a run, the score of its best model on the test split, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        events = list(lab.train(resolve(read_preset_file(preset), ["save.snapshots=false", *overrides]), out))
        seconds = time.perf_counter() - began
        return [event for event in events if event.kind == "eval"], lab.evaluate(out), seconds


def rlm(figure: go.Figure, steps: int, overrides: list[str], preset: str = "rlm-deep") -> None:
    print("depth      tokens   loss    best    bigram  excess             KL of the last   seconds")
    curves = []
    for depth in (1, 2, 3):
        settings = (f"data.L={depth}", "data.v=32", f"model.block_size={2**depth}", f"train.steps={steps}", *overrides)
        evaluations, score, seconds = train(preset, *settings)
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


def rhm(figure: go.Figure, steps: int, sizes: list[int], overrides: list[str]) -> None:
    v, m, s, depth = 16, 4, 2, 3
    scales = RandomHierarchyModel(v, m, s, depth).sample_complexity()
    print(
        f"v={v} m={m} s={s} L={depth}: P_l = {', '.join(f'{scale:,.0f}' for scale in scales)}; ln v {math.log(v):.3f}"
    )
    print("      P   P/P_1   P/P_2   P/P_3   test loss   best    excess   accuracy  best   seconds")
    losses = []
    for size in sizes:
        settings = (f"data.training_set={size}", f"train.steps={steps}", "evaluate.every=100", *overrides)
        _, score, seconds = train("rhm", *settings)
        losses.append(score["loss"])
        print(
            f"{size:>7} {'  '.join(f'{size / scale:6.2f}' for scale in scales)}   {score['loss']:.4f}    "
            f"{score['bayes_loss']:.4f}  {score['excess']:.4f}   {score['accuracy']:.3f}    "
            f"{score['bayes_accuracy']:.3f}   {seconds:.0f}",
            flush=True,
        )
        best = score["bayes_loss"]
    figure.add_scatter(x=sizes, y=losses, name="test loss at the best step")
    figure.add_hline(y=best, line_dash="dot", annotation_text="best")
    for level, scale in enumerate(scales, start=1):
        figure.add_vline(x=scale, line_dash="dash")  # an annotation's place on a logarithmic axis is a logarithm
        figure.add_annotation(
            x=math.log10(scale), y=1, yref="paper", xanchor="left", text=f"P_{level}", showarrow=False
        )
    figure.update_layout(xaxis_title="training sequences P", yaxis_title="loss of the last token, nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("rlm", "source", "rhm"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4**n for n in range(3, 9)], help="of rhm: P")
    parser.add_argument("--picture", type=Path, help="also draw it, as a page")
    parser.add_argument("--steps", type=int, help="steps of each run of ours; 4,000 of rlm and 800 of rhm if left out")
    options = parser.parse_args()
    figure = go.Figure()
    steps = options.steps or {"rlm": 4000, "source": 30000, "rhm": 800}[options.study]
    if options.study == "rhm":
        rhm(figure, steps, options.sizes, options.overrides)
    else:
        rlm(figure, steps, options.overrides, {"rlm": "rlm-deep", "source": "rlm"}[options.study])
    figure.update_xaxes(type="log")
    figure.update_layout(template="plotly_white", width=900, height=480, margin={"t": 20, "r": 20})
    if options.picture:
        figure.write_html(options.picture, include_plotlyjs=True, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
