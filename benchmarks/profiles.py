"""Where the time of a training step and of a decoded token goes, with the C kernels and without.

    python benchmarks/profiles.py [--pictures FOLDER]

A step of 4 x 128 with 12 x 64 tokens and AdamW, and a token of 6 x 384 at batch 1 and 16, all in float32 and of
GPT-2's shape. torch's profiler gives the own time of operators. With the C kernels a token is one call of the library,
which it does not see: a program's steps are given to the library one by one instead, each timed less a call without
steps; GELU is part of a product there. The rest is what no operator and no step takes. Each operator counts by its
quickest round, and the whole by its quickest in CPU time on one thread, so that a busy machine changes little.
`--pictures` draws two pages, and prints the commands that take pictures of them. `--tiny` is a size for tests.
"""

import argparse
import copy
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from plotly.subplots import make_subplots

from nanogrove.decoding.loop import Sequences
from nanogrove.decoding.plain import plain
from nanogrove.decoding.sampling import Sampler
from nanogrove.model.gpt import GPT
from nanogrove.model.packing import packed_weights
from nanogrove.native import library, program
from side_by_side import Work, clock, stepper, tokens, write_page
from training_step import KINDS, REST, Kinds, config_of, operator_seconds

WITH, WITHOUT, WHOLE = "with the C kernels", "without", "all"
COLOURS = {WITHOUT: "#b4bac6", WITH: "#1f5fbf"}
SAMPLING = tuple((name, "sampling") for name in ("softmax", "cumsum", "rand", "searchsorted", "clamp"))
OF_STEPS = ("embeddings", "embeddings", "norms", "matrix products", "GELU", "attention")  # as program.KINDS has them
Seconds = dict[str, float]


def in_two_ways(make: Callable[..., Work], *sizes: Any) -> dict[str, Work]:
    """What `make` gives for `sizes`, with the C kernels and as where they were not built."""
    without = patch.object(library, "missing", lambda: "the C kernels are left out")
    return {WITH: make(*sizes), WITHOUT: without(make(*sizes))}


def training_step(layers: int, width: int, heads: int, length: int, rows: int) -> Work:
    return stepper(config_of(layers, width, heads, length), tokens(rows, length, 65))


def next_token(layers: int, width: int, heads: int, rows: int, room: int) -> Work:
    """Decodes one token of each row, after a prompt of 40, `room` times at most."""

    def decoded() -> Iterator[None]:
        model = GPT(config_of(layers, width, heads, 256)).initialize(0).eval().requires_grad_(False)
        prompts = Sequences(torch.randint(0, 65, (rows, 40)), torch.full((rows,), 40), room, (), 0)
        with packed_weights(model, rows):
            yield from plain(model).steps(prompts, Sampler())

    return torch.inference_mode()(partial(next, decoded()))


def step_seconds(work: Work) -> list[tuple[str, float]]:
    """The decoding steps that the library runs, in order: kind and seconds of each."""
    found, run = list[tuple[str, float]](), program.Program.run

    def timed(whole: program.Program, steps: list[Any], given: tuple[Any, ...]) -> float:
        part = copy.copy(whole)
        part._steps = steps
        began = time.perf_counter()
        run(part, *given)
        return time.perf_counter() - began

    def one_by_one(whole: program.Program, *given: Any) -> None:
        call = min(timed(whole, [], given) for _ in range(5))
        found.extend((OF_STEPS[step.kind], max(timed(whole, [step], given) - call, 0.0)) for step in whole._steps)

    with patch.object(program.Program, "run", one_by_one):
        work()
    return found


def profiles(contenders: dict[str, Work], rounds: int, kinds: Kinds = KINDS) -> dict[str, Seconds]:
    """Seconds by kind of each contender, and WHOLE, that of all; the longest first."""
    now = clock()
    rows: dict[str, list[list[tuple[str, float]]]] = {name: [] for name in contenders}
    for _ in range(2 + rounds):  # two warm up
        for name, work in contenders.items():
            began = now()
            work()
            whole = now() - began
            rows[name].append([(WHOLE, whole), *operator_seconds(work, kinds), *step_seconds(work)])
    result = {}
    for name, row in rows.items():
        seconds: Seconds = defaultdict(float)
        for same in zip(*row[2:], strict=True):
            seconds[same[0][0]] += min(each for _, each in same)
        seconds[REST] = 2 * seconds[WHOLE] - sum(seconds.values())
        result[name] = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    return result


def draw(panels: dict[str, dict[str, Seconds]], path: Path) -> None:
    """Bars by kind, a panel below the other: a page as wide as a narrow column."""
    orders = [
        sorted(each[WITHOUT] | each[WITH], key=lambda kind, each=each: max(way.get(kind, 0.0) for way in each.values()))
        for each in panels.values()
    ]
    heights = [1 + len(order) for order in orders]
    page = make_subplots(len(panels), 1, row_heights=heights, subplot_titles=list(panels), vertical_spacing=0.06)
    for row, (each, order) in enumerate(zip(panels.values(), orders, strict=True), start=1):
        kinds = ["<br>".join(textwrap.wrap(kind, 20)) for kind in order]
        for way, colour in COLOURS.items():
            values = [1000 * each[way].get(kind, 0.0) for kind in order]
            page.add_bar(x=values, y=kinds, name=way, text=[f"{value:.2f}" for value in values], row=row, col=1)
            page.data[-1].update(marker_color=colour, showlegend=row == 1)
    page.update_traces(orientation="h", textposition="outside", cliponaxis=False, textangle=0)
    page.update_xaxes(showticklabels=False, showgrid=False, zeroline=False)
    legend = {"orientation": "h", "traceorder": "reversed", "y": 0, "yanchor": "top"}
    page.update_layout(template="plotly_white", font_size=18, legend=legend, width=660, height=60 + 48 * sum(heights))
    page.update_layout(margin={"l": 10, "r": 70, "t": 40, "b": 40}, bargap=0.2)
    page.update_annotations(font_size=18, x=0, xanchor="left")
    write_page(page, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="also draw them, as pages in this folder")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    step, token = ((1, 32, 2, 8, 2), (1, 32, 2)) if options.tiny else ((4, 128, 4, 64, 12), (6, 384, 6))
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    print(f"{threads}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    title = f"Milliseconds of a step, {step[0]} x {step[1]}, {step[4]} x {step[3]} tokens, {threads}"
    pages = {"step": {title: profiles(in_two_ways(training_step, *step), options.rounds)}, "token": {}}
    for batch in (1, 16):
        title = f"Milliseconds of a token, {token[0]} x {token[1]}, batch {batch}, {threads}"
        contenders = in_two_ways(next_token, *token, batch, 4 * options.rounds + 8)
        pages["token"][title] = profiles(contenders, options.rounds, SAMPLING + KINDS)
    for name, panels in pages.items():
        for title, each in panels.items():
            for way, seconds in each.items():
                print(f"{title}, {way}")
                print(*(f"  {1000 * value:8.3f} {kind}" for kind, value in seconds.items()), sep="\n", flush=True)
        if options.pictures:
            draw(panels, options.pictures / f"profile-{name}.html")


if __name__ == "__main__":
    main()
