"""Jobs as tasks of a Ray cluster, one core each, over run folders on a path that all nodes see.

A task whose node or process dies is tried again on another node, and goes on from the folders of its runs. Ray knows
nothing of checkpoints. A worker that was cut off and lives on holds the locks of its run folders, so that whoever comes
after it waits; whether a lock holds between nodes is up to the file system (see the guide).
"""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanogrove.atomic import write_file
from nanogrove.errors import NanogroveError, StudyError
from nanogrove.studies.engines.contract import Happened, Job, Place
from nanogrove.studies.results import last_event

POLL_SECONDS = 1.0  # between two looks at the records of what is being trained
CONNECT_SECONDS = "10"  # for which an address is tried
PROBE_SECONDS = 60.0  # in which every node says what it sees


def train_on_ray(jobs: Sequence[Job], place: Place) -> Iterator[Happened]:
    """Trains jobs as tasks. Raises StudyError where there is no cluster, no shared folder, or no end of a run."""
    ray = _connected(place.address)
    try:
        _check_shared(ray, place.study.absolute())
        task = ray.remote(num_cpus=1, max_retries=-1)(_train)
        tasks = {task.remote(_described(job, place), place.allow_code): job for job in jobs}
        while tasks:
            ended, _ = ray.wait(list(tasks), timeout=POLL_SECONDS)
            for each in ended:
                job, error = tasks.pop(each), ray.get(each)
                if error is not None:
                    raise StudyError(f"{job.label}: {error}")
                yield from _reached(job, place)
            for job in tasks.values():
                yield from _reached(job, place)
    finally:
        ray.shutdown()


def _connected(address: str) -> Any:
    """Ray, connected to the cluster at an address, or to one of this machine."""
    try:
        import ray
    except ImportError:
        raise StudyError("engine ray needs Ray; install it with: pip install 'nanogrove[ray]'") from None
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", CONNECT_SECONDS)
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level="error", include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if not address:
            raise StudyError(f"engine ray: no cluster could be started here ({_first_line(error)})") from None
        raise StudyError(
            f"--address {address}: no Ray cluster answers there ({_first_line(error)}); start one with `ray start "
            "--head`, and give the address that it prints"
        ) from None
    return ray


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


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


def _described(job: Job, place: Place) -> str:
    """A job as JSON."""
    folder = place.study.absolute()
    return json.dumps(
        [{"preset": run.preset.model_dump(mode="json"), "folder": str(folder / run.folder)} for run in job.runs]
    )


def _train(runs: str, allow_code: bool) -> str | None:
    """The task: trains a job; returns the error of a run that cannot be trained. A stopped process counts as one that
    died, so that the task is tried again.
    """
    from nanogrove.config.overrides import resolve
    from nanogrove.studies.work import run_job

    pairs = [(resolve(run["preset"]), Path(run["folder"])) for run in json.loads(runs)]
    try:
        for _, event in run_job(pairs, allow_code):
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
