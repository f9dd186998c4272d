"""How time and memory of a training step grow with width, context, batch and population.

    python benchmarks/growth.py [--picture growth.html]

Each size trains a few steps in a process of its own, in float32 with AdamW; memory is the peak above that at import,
time that of the quickest step. An exponent is the slope of a straight line through the logarithms. `--picture` draws a
page, and prints the command that takes a PNG of it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from plotly.subplots import make_subplots

from nanogrove.model.config import ModelConfig
from side_by_side import clock, stepper, tokens, write_page
from training_step import peak_memory

AXES = {  # what grows: values; all else stays at 4 layers x 128, 12 x 64 tokens, or 2 x 32, 4 x 16 for a population
    "width": (64, 128, 256, 512),
    "context": (64, 128, 256, 512, 1024),
    "batch": (4, 12, 48, 192),
    "population": (1, 4, 16, 64),
}
STEPS, SECONDS = 6, 1.0  # of each size, at least


def one(axis: str, value: int) -> tuple[float, float]:
    """Milliseconds of a step, and megabytes."""
    before = peak_memory()
    if axis == "population":
        config = ModelConfig(vocab_size=65, block_size=16, n_layer=2, n_head=4, n_embd=32, bias=False)
        work = stepper(config, tokens(4, 16, 65, value), value)
    else:
        width, length, rows = ({"width": 128, "context": 64, "batch": 12} | {axis: value}).values()
        config = ModelConfig(vocab_size=65, block_size=length, n_layer=4, n_head=4, n_embd=width, bias=False)
        work = stepper(config, tokens(rows, length, 65))
    now = clock()
    seconds: list[float] = []
    while len(seconds) < STEPS or sum(seconds) < SECONDS:
        began = now()
        work()
        seconds.append(now() - began)
    return 1000 * min(seconds), (peak_memory() - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="also draw it, as a page")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]))))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    page = make_subplots(2, 2, horizontal_spacing=0.12, vertical_spacing=0.16)
    for number, (axis, values) in enumerate(AXES.items()):
        figures = []
        for value in values:
            command = [sys.executable, __file__, "--one", axis, str(value)]
            figures.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        at = {"row": 1 + number // 2, "col": 1 + number % 2}
        slopes = []
        for name, series, colour in zip(("ms a step", "MB"), np.array(figures).T, ("#1f5fbf", "#d1495b"), strict=True):
            slopes.append(np.polyfit(np.log(values), np.log(series), 1)[0])
            shown = "  ".join(f"{value}: {figure:.1f}" for value, figure in zip(values, series, strict=True))
            print(f"{axis:<11} {name:<10} {shown}   exponent {slopes[-1]:.2f}", flush=True)
            page.add_scatter(x=values, y=series, name=name, marker_color=colour, showlegend=not number, **at)
        page.update_xaxes(title=f"{axis}: ms ^{slopes[0]:.2f}, MB ^{slopes[1]:.2f}", tickvals=values, **at)
    page.update_xaxes(type="log").update_yaxes(type="log", tickvals=[3, 10, 30, 100, 300, 1000, 3000])
    page.update_layout(
        template="plotly_white", font_size=17, width=700, height=620, margin={"l": 10, "r": 20, "t": 40, "b": 10}
    )
    page.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})
    if options.picture:
        write_page(page, options.picture, ".png")


if __name__ == "__main__":
    main()
