"""Where the time of a training step and of a decoded token goes, with the C kernels and without.

    python benchmarks/profiles.py [--pictures FOLDER]

A step of 4 x 128 with 12 x 64 tokens and AdamW, and a token of 6 x 384 at batch 1 and 16, all in float32 and of
GPT-2's shape; of each kind of work the quickest round counts, since what else the machine does only adds to it. torch's
profiler gives the own time of operators. With the C kernels a token is one call of the library, which the profiler does
not see: each kind of step is timed by giving a program's steps to the library one by one, in their order, less the time
of a call without steps; GELU is part of the product before it there. The rest is what no operator and no step takes.
`--pictures` draws two pages, and prints the commands that take PNG files of them. `--tiny` tries the logic at a size for
tests.
"""

import argparse
import copy
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from plotly.subplots import make_subplots

from nanogrove.decoding.loop import Sequences
from nanogrove.decoding.plain import plain
from nanogrove.decoding.sampling import Sampler
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.model.packing import packed_weights
from nanogrove.native import library, program
from side_by_side import Work, stepper, tokens, write_page
from training_step import KINDS, REST, Kinds, config_of, operator_seconds

WITH, WITHOUT, WHOLE = "with the C kernels", "without", "all"
COLOURS = {WITHOUT: "#b4bac6", WITH: "#1f5fbf"}
SAMPLING = tuple((name, "sampling") for name in ("softmax", "cumsum", "rand", "searchsorted", "clamp"))
OF_STEPS = ("embeddings", "embeddings", "norms", "matrix products", "GELU", "attention")  # as program.KINDS has them
Seconds = dict[str, float]


@contextmanager
def without_kernels() -> Iterator[None]:
    """Within, all is computed as where the C library was not built."""
    with patch.object(library, "missing", lambda: "the C kernels are left out"):
        yield


def in_two_ways(make: Callable[..., Work], *sizes: Any) -> dict[str, Work]:
    """What `make` gives for `sizes`, with the C kernels and without."""

    def within(way: Callable[[], Any]) -> Work:
        work = make(*sizes)

        def run() -> None:
            with way():
                work()

        return run

    return {WITH: within(nullcontext), WITHOUT: within(without_kernels)}


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


def step_seconds(work: Work) -> Seconds:
    """Seconds that the library's decoding steps take, by kind."""
    seconds = dict.fromkeys(OF_STEPS, 0.0)
    run = program.Program.run

    def timed(whole: program.Program, steps: list[Any], given: tuple[Any, ...]) -> float:
        part = copy.copy(whole)
        part._steps = steps
        began = time.perf_counter()
        run(part, *given)
        return time.perf_counter() - began

    def one_by_one(whole: program.Program, *given: Any) -> None:
        call = min(timed(whole, [], given) for _ in range(5))
        for step in whole._steps:
            seconds[OF_STEPS[step.kind]] += max(timed(whole, [step], given) - call, 0.0)

    with patch.object(program.Program, "run", one_by_one):
        work()
    return {kind: each for kind, each in seconds.items() if each}


def profiles(contenders: dict[str, Work], rounds: int, kinds: Kinds = KINDS) -> dict[str, Seconds]:
    """Seconds by kind of each contender, and WHOLE, that of all; the longest first."""
    least: dict[str, Seconds] = {name: {} for name in contenders}
    for number in range(2 + rounds):  # two warm up
        for name, work in contenders.items():
            began = time.perf_counter()
            work()
            row = {WHOLE: time.perf_counter() - began}
            for part in (operator_seconds(work, 1, kinds), step_seconds(work)):
                row |= {kind: row.get(kind, 0.0) + seconds for kind, seconds in part.items()}
            least[name] = row if number < 2 else {kind: min(row[kind], least[name][kind]) for kind in row}
    for seconds in least.values():
        seconds[REST] = 2 * seconds[WHOLE] - sum(seconds.values())
    return {name: dict(sorted(seconds.items(), key=lambda item: -item[1])) for name, seconds in least.items()}


def draw(panels: dict[str, dict[str, Seconds]], path: Path) -> None:
    """Bars by kind, a panel below the other: a page as wide as a narrow column."""
    orders = [[*reversed({**each[WITHOUT], **each[WITH]})] for each in panels.values()]
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
    threads = f"{torch.get_num_threads()} threads"
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
