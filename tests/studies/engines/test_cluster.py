"""Jobs as tasks of a Ray cluster of two nodes: the same bits as here, also where a node goes."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.studies.conftest import MakeStudy, begin, in_training, lasting, left, outcome, run, wait_for

from nanogrove.record.reading import last_event
from nanogrove.studies.compare import Options, compare

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
STEPS = 360  # of runs of some seconds each
QUIET_SECONDS = 12.0  # in which nothing moves, since the folder of a frozen worker is waited for


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, of which the first is that of this process."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def undisturbed(mixed: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What `mixed(steps=STEPS)` leaves where nothing happens to it."""
    out = tmp_path_factory.mktemp("undisturbed") / "study"
    run(mixed(steps=STEPS), out, "stacked")
    return lasting(out)


def raylet(node: Any) -> psutil.Process:
    """The process of a node that has all of its others as children."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def trains(out: Path, processes: list[psutil.Process]) -> tuple[Path, psutil.Process] | None:
    """A run folder with a checkpoint, and the one of some processes that trains it; None where there is none."""
    by_pid = {str(each.pid): each for each in processes}
    for state in out.glob("runs/*/*/checkpoints/current/state.json"):
        folder = state.parents[2]
        owner = by_pid.get((folder / ".lock").read_text().split()[-1])
        last = last_event(folder / "events.jsonl")
        if owner is not None and last is not None and last.kind != "end":
            return folder, owner
    return None


@pytest.mark.parametrize("kind", ["text", "grammar"])
def test_a_cluster_gives_the_bits_of_this_machine(kind: str, cluster: Any, mixed: MakeStudy, tmp_path: Path) -> None:
    outcome(compare(mixed(kind), tmp_path / "ray", Options("ray", address=cluster.address)))
    run(mixed(kind), tmp_path / "stacked", "stacked")
    assert left(tmp_path / "ray") == left(tmp_path / "stacked")


@pytest.mark.parametrize("whole", [True, False], ids=["workers", "raylet alone"])
def test_a_killed_node(
    whole: bool, cluster: Any, mixed: MakeStudy, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    """All processes at once, as by a power cut; or the raylet alone, which leaves a worker that nobody hears."""
    out, node, killed = tmp_path / "study", raylet(next(iter(cluster.worker_nodes))), None
    frozen, share, since, kept_out = b"", 0.0, time.monotonic(), False
    for update in compare(mixed(steps=STEPS), out, Options("ray", address=cluster.address)):
        if update.share > share:
            share, since = update.share, time.monotonic()
        children = [] if killed else node.children(recursive=True)
        if not killed and (killed := trains(out, children)):
            folder, worker = killed
            worker.suspend()
            for process in [node, *children] if whole else [node]:
                process.kill()
            frozen = (folder / "events.jsonl").read_bytes()
            print(f"killed at {update.share:.1%}: {folder.relative_to(out)} by {worker.pid}")
        elif killed and not whole and not kept_out and time.monotonic() - since > QUIET_SECONDS:
            kept_out = (folder / "events.jsonl").read_bytes() == frozen
            worker.resume()
            print(f"kept out for {QUIET_SECONDS:.0f} s at {share:.1%}")
    assert killed
    assert whole or kept_out
    assert lasting(out) == undisturbed


def test_ctrl_c_saves_all_runs(cluster: Any, mixed: MakeStudy, undisturbed: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "study"
    process = begin(mixed(steps=STEPS), out, "ray", "--address", cluster.address)
    wait_for(lambda: in_training(out))
    process.send_signal(signal.SIGINT)
    text = process.communicate()[0]
    assert process.returncode == 130, text
    assert "stopped; what runs have saved stays" in text
    stopped = in_training(out)
    assert stopped
    for folder in stopped:
        state = json.loads((folder / "checkpoints" / "current" / "state.json").read_text())
        last = last_event(folder / "events.jsonl")
        assert last is not None
        print(f"{folder.relative_to(out)} stopped at step {last.step}")
        assert state["step"] == last.step
    run(mixed(steps=STEPS), out, "stacked")
    assert lasting(out) == undisturbed
