"""A population trained as one tensor program, against a loop over its members, processes, and `torch.func.vmap`.

    python benchmarks/population.py

One step is forward, backward, clipping by member and AdamW. The loop trains single models one after another with the
same training loop, on all threads; two processes of one thread train half of the members each, one member after
another; vmap maps a functional call of the single model over stacked weights and batches. Ours takes the threads that
`auto` chooses for it. The last line of a size is the stacked step with a learning rate and a weight decay of each
member's own. `--tiny` tries the logic at a size for tests.
"""

import argparse
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import stack
from nanogrove.train.autotune import Work as StepWork
from nanogrove.train.autotune import resolve_auto
from nanogrove.train.loop import clip_gradients
from side_by_side import Timing, Work, in_turn, stepper, tokens

# layers, width, rows, tokens; asked: loop / stacked, member-steps a second, and these over the best other way
SIZES = ((2, 32, 4, 16, 4.0, 1300, 3.5), (2, 64, 8, 32, 2.0, 270, 1.3), (4, 128, 12, 64, 1.0, 20, 1.0))
TINY = ((1, 16, 2, 8, 4.0, 1300, 3.5),)
PROCESSES = 2
SECONDS_A_ROUND = 0.2  # of the stacked program; the others take as many steps


def vmapped(config: ModelConfig, members: int, batch) -> Work:
    """The same step through `torch.func.vmap`, with torch's own AdamW over the stacked weights."""
    single = GPT(config).initialize(0)
    weights = stack([GPT(config).initialize(seed).state_dict() for seed in range(members)])
    parameters = {name: weight.requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, fused=True)

    def loss(one: dict[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(single, one, (inputs, targets)).mean()

    over_members = torch.func.vmap(loss)

    def step() -> None:
        over_members(parameters, batch.tokens, batch.targets).sum().backward()
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        clip_gradients(gradients, torch.Size([members]), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def train_half(settings: dict, rows: int, members: int, barrier: Barrier, pipe: Connection) -> None:
    """In a process: for each number of steps received, trains all its members as many, and answers.

    It ends when the other end of the pipe is closed.
    """
    torch.set_num_threads(1)
    config = ModelConfig(**settings)
    singles = [stepper(config, tokens(rows, config.block_size, 65)) for _ in range(members)]
    with contextlib.suppress(EOFError):
        while True:
            steps = pipe.recv()
            barrier.wait()
            for single in singles:
                for _ in range(steps):
                    single()
            pipe.send("done")


@contextlib.contextmanager
def side_by_side_processes(config: ModelConfig, rows: int, members: int) -> Iterator[Callable[[int], None]]:
    """Processes of one thread that share the members: what trains all of them some steps.

    They wait without CPU time in between.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    pipes, processes = [], []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        arguments = (config.model_dump(), rows, members // PROCESSES, barrier, theirs)
        process = context.Process(target=train_half, args=arguments, daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)

    def train(steps: int) -> None:
        for pipe in pipes:
            pipe.send(steps)
        for pipe in pipes:
            pipe.recv()

    try:
        yield train
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


def repeated(steps: int, threads: int, work: Work) -> Work:
    """`work`, so many times, on so many threads."""

    def call() -> None:
        torch.set_num_threads(threads)
        for _ in range(steps):
            work()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    if options.members % PROCESSES:
        parser.exit(2, f"error: --members {options.members} is not a multiple of the {PROCESSES} processes\n")
    members, threads = options.members, torch.get_num_threads()
    print(f"{members} members, {threads} threads, torch {torch.__version__}; processes: {PROCESSES} of one thread")
    for layers, width, rows, length, asked_loop, asked_rate, asked_best in TINY if options.tiny else SIZES:
        config = ModelConfig(vocab_size=65, block_size=length, n_layer=layers, n_head=4, n_embd=width, bias=False)
        batch = tokens(rows, length, 65, members)
        singles = [stepper(config, tokens(rows, length, 65)) for _ in range(members)]
        auto = min(resolve_auto(StepWork(config, members, rows), 1, torch.device("cpu")).threads, threads)
        work: dict[str, tuple[int, Work]] = {
            "stacked": (auto, stepper(config, batch, members)),
            "loop": (threads, lambda singles=singles: [single() for single in singles]),  # type: ignore[misc]
            "vmap": (threads, vmapped(config, members, batch)),
            "own rates": (auto, stepper(config, batch, members, by_member=True)),
        }
        steps = 1 if options.tiny else max(1, round(SECONDS_A_ROUND / in_turn({"": work["stacked"][1]}, 5)[""].median))
        with side_by_side_processes(config, rows, members) as train_in_processes:
            contenders = {name: repeated(steps, *each) for name, each in work.items()}
            contenders["processes"] = lambda train=train_in_processes, steps=steps: train(steps)  # type: ignore[misc]
            t = in_turn(contenders, options.rounds)
        rate = {name: steps * members / timing.median for name, timing in t.items()}
        ratio = {name: timing.median / t["stacked"].median for name, timing in t.items()}
        best = min(ratio["loop"], ratio["processes"])
        step = Timing(*(seconds / steps for seconds in t["stacked"]))
        print(f"{layers} x {width}, {rows} x {length} tokens: stacked {step}, {auto} of {threads} threads")
        print(
            f"  member-steps a second: {rate['stacked']:.0f}, asked {asked_rate}; loop {rate['loop']:.0f}, "
            f"processes {rate['processes']:.0f}"
        )
        print(f"  stacked over the best of these two: {best:.2f}, asked {asked_best}")
        print(f"  loop / stacked {ratio['loop']:.2f}, asked {asked_loop}; vmap / stacked {ratio['vmap']:.2f}")
        print(f"  own rates / stacked {ratio['own rates']:.2f}")


if __name__ == "__main__":
    main()
