"""Jobs as tasks of a Ray cluster, one core each, over run folders on a path that all nodes see.

A task whose node or process dies is tried again on another node, and goes on from the folders of its runs. Ray knows
nothing of checkpoints. A worker that was cut off and lives on holds the locks of its run folders, so that whoever comes
after it waits; whether a lock holds between nodes is up to the file system (see the guide).
"""

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanogrove.atomic import write_file
from nanogrove.errors import NanogroveError, StudyError
from nanogrove.record.reading import last_event
from nanogrove.studies.engines.contract import Happened, Job, Place
from nanogrove.train.signals import end_as_signalled, stop_signals
from nanogrove.waits import waiting

POLL_SECONDS = 1.0  # between two looks at the records of what is being trained
CONNECT_SECONDS = 10.0  # for which an address is tried
PROBE_SECONDS = 60.0  # in which every node says what it sees
SAVE_SECONDS = 60.0  # in which what is stopped is saved


def train_on_ray(jobs: Sequence[Job], place: Place) -> Iterator[Happened]:
    """Trains jobs as tasks. Raises StudyError where there is no cluster, no shared folder, or no end of a run, and
    after Ctrl-C or SIGTERM, when all runs are saved, KeyboardInterrupt or SystemExit.
    """
    ray = _connected(place.address)
    try:
        _check_shared(ray, place.study.absolute())
        with stop_signals() as stopped:
            yield from _train_all(ray, jobs, place, stopped)
    finally:
        ray.shutdown()
    end_as_signalled(stopped)


def _train_all(ray: Any, jobs: Sequence[Job], place: Place, stopped: Sequence[int]) -> Iterator[Happened]:
    task = ray.remote(num_cpus=1, max_retries=-1)(_train)
    tasks = {task.remote(job.described(place.study.absolute()), place.allow_code): job for job in jobs}
    try:
        while tasks and not stopped:
            ended, _ = ray.wait(list(tasks), timeout=POLL_SECONDS)
            for each in ended:
                job, error = tasks.pop(each), ray.get(each)
                if error is not None:
                    raise StudyError(f"{job.label}: {error}")
                yield from _reached(job, place)
            for job in tasks.values():
                yield from _reached(job, place)
    finally:
        if tasks:
            _stop(ray, list(tasks))


def _stop(ray: Any, tasks: list[Any]) -> None:
    """Asks all tasks to save and end, and waits for them."""
    for task in tasks:
        ray.cancel(task)  # a Ctrl-C for those that train
    with waiting("waiting for runs to be saved"):
        ray.wait(tasks, num_returns=len(tasks), timeout=SAVE_SECONDS)


def _connected(address: str) -> Any:
    """Ray, connected to the cluster at an address, or to one of this machine."""
    try:
        import ray
    except ImportError:
        raise StudyError("engine ray needs Ray; install it with: pip install 'nanogrove[ray]'") from None
    if address:
        _check_answers(address)
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"--address {address}: not a cluster of this Ray" if address else "engine ray: no cluster starts here"
        raise StudyError(f"{where} ({str(error).strip().splitlines()[0]})") from None
    return ray


def _check_answers(address: str) -> None:
    """Raises StudyError where nothing answers at HOST:PORT; Ray itself would try for minutes, and end the process."""
    host, _, port = address.rpartition(":")
    cure = "start a cluster with `ray start --head`, and give the HOST:PORT that it prints"
    if not host or not port.isdigit():
        raise StudyError(f"--address {address}: not HOST:PORT; {cure}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise StudyError(f"--address {address}: nothing answers there ({error}); {cure}") from None


def _check_shared(ray: Any, study: Path) -> None:
    """Raises StudyError for a node that does not see what is written in the folder of the study."""
    probe = study / f".probe-{secrets.token_hex(8)}"
    write_file(probe, b"")
    try:
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        see = ray.remote(num_cpus=0)(os.path.exists)
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        looks = {
            name: see.options(scheduling_strategy=strategy(node, soft=False)).remote(str(probe))
            for node, name in nodes.items()
        }
        for name, look in looks.items():
            if not ray.get(look, timeout=PROBE_SECONDS):
                raise StudyError(
                    f"{study}: node {name} does not see what is written here; give --out on a path that all nodes share"
                )
    except ray.exceptions.GetTimeoutError:
        raise StudyError(
            f"--address: a node of the cluster did not answer within {PROBE_SECONDS:.0f} seconds; see `ray status`"
        ) from None
    finally:
        probe.unlink(missing_ok=True)


def _train(runs: list[dict[str, Any]], allow_code: bool) -> str | None:
    """The task: trains a job; returns the error of a run that cannot be trained. A stopped process counts as one that
    died, so that the task is tried again.
    """
    from nanogrove.studies.work import run_described

    try:
        for _, event in run_described(runs, allow_code):
            if event.kind == "stop":
                os._exit(1)
    except NanogroveError as error:
        return str(error)
    return None


def _reached(job: Job, place: Place) -> Iterator[Happened]:
    """How far the runs of a job are, by their records."""
    for run in job.runs:
        event = last_event(place.study / run.folder / "events.jsonl")
        if event is not None:
            yield Happened(run, event.kind, event.step)
