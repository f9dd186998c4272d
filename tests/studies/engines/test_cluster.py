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

from nanogrove.record.folder import RunFolder
from nanogrove.record.reading import last_event
from nanogrove.studies.compare import Options, compare

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
STEPS = 360  # of runs of some seconds each
HELD_SECONDS = 20.0  # that a folder is waited for


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


def trains(out: Path, processes: list[psutil.Process]) -> Path | None:
    """A run folder with a checkpoint that one of some processes trains; None where there is none."""
    pids = {str(each.pid) for each in processes}
    for state in out.glob("runs/*/*/checkpoints/current/state.json"):
        folder = state.parents[2]
        last = last_event(folder / "events.jsonl")
        if (folder / ".lock").read_text().split()[-1] in pids and last is not None and last.kind != "end":
            return folder
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
    """All processes at once, as by a power cut; or the raylet alone, whose workers end when they see it."""
    out, node, killed = tmp_path / "study", raylet(next(iter(cluster.worker_nodes))), None
    for update in compare(mixed(steps=STEPS), out, Options("ray", address=cluster.address)):
        children = [] if killed else node.children(recursive=True)
        if not killed and (killed := trains(out, children)):
            for process in [node, *children] if whole else [node]:
                process.kill()
            print(f"killed at {update.share:.1%}: {killed.relative_to(out)}")
    assert killed
    assert lasting(out) == undisturbed


def test_a_run_folder_that_another_process_holds_is_waited_for(
    cluster: Any, mixed: MakeStudy, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    """As a worker holds it that was cut off and lives on."""
    out = tmp_path / "study"
    held, since, waited = RunFolder(out / "runs" / "base" / "seed-0"), time.monotonic(), False
    for _ in compare(mixed(steps=STEPS), out, Options("ray", address=cluster.address)):
        if not waited and time.monotonic() - since > HELD_SECONDS:
            assert not (held.path / "events.jsonl").read_bytes()
            held.close()
            waited = True
    assert waited
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
