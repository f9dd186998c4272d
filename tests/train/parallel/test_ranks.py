"""Ranks that torchrun starts train what one process trains, rows or members each; one writes, all stop together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.errors import PresetError, RunError
from nanogrove.methods import METHODS, load_method
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import load_checkpoint
from nanogrove.train.parallel import ranks as distributed
from nanogrove.train.parallel.ranks import ALONE, Ranks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
PLAIN = {"model": {"dropout": 0.0}, "train": {"batch_size": 6, "accumulation": 2}, "sample": {"tokens": 0}}


def started(ranks: int, *arguments: object, options: tuple[str, ...] = (), **request: Any) -> subprocess.Popen[str]:
    """`nanogrove train` on so many ranks."""
    command = [*TORCHRUN, f"--nproc_per_node={ranks}", *options, "-m", "nanogrove", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **request)


Trained = Callable[..., str]


@pytest.fixture(scope="module")
def trained(forked: Any) -> Trained:
    """Trains to the end on so many ranks, and gives what was shown. They meet as under torchrun, which others start."""

    def train(ranks: int, *arguments: object) -> str:
        outcomes = forked.ranks(*[["train", *arguments]] * ranks)
        for outcome in outcomes:
            assert outcome.code == 0, outcome.err
        return "".join(outcome.out for outcome in outcomes)

    return train


def record(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def losses(run: Path, kind: str) -> list[float]:
    return [event["loss"] for event in record(run) if event["kind"] == kind]


def tensors(run: Path) -> dict[str, bytes]:
    folder = run / "checkpoints" / "current"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def preset(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preset") / "preset.json"
    path.write_text(json.dumps(tiny(**PLAIN)))
    return path


@pytest.fixture(scope="module")
def alone(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, as it always was."""
    run = tmp_path_factory.mktemp("alone") / "run"
    for _ in train(resolve(json.loads(preset.read_text())), run):
        pass
    return run


def same_course(run: Path, other: Path) -> None:
    for kind, count in (("step", 30), ("eval", 6), ("end", 1)):
        ours, theirs = losses(run, kind), losses(other, kind)
        assert len(ours) == len(theirs) == count
        assert ours == pytest.approx(theirs, abs=1e-5)


def same_averages(run: Path, other: Path) -> None:
    """Of two runs: each has one, which is not its weights."""
    ours, theirs = (load_checkpoint(path / "checkpoints" / "current") for path in (run, other))
    assert ours.average.keys() == theirs.average.keys()
    assert ours.state["averaged"] == theirs.state["averaged"] > 1
    for name, tensor in ours.average.items():
        torch.testing.assert_close(tensor, theirs.average[name], atol=1e-4, rtol=1e-3, msg=name)
    assert any(not torch.equal(ours.average[name], tensor) for name, tensor in ours.model.items())


@pytest.mark.parametrize(
    ("ranks", "starter"), [(2, "fork"), (4, "fork"), pytest.param(2, "torchrun", marks=pytest.mark.slow)]
)
def test_ranks_train_what_one_process_trains_and_one_of_them_writes(
    ranks: int, starter: str, preset: Path, alone: Path, tmp_path: Path, trained: Trained
) -> None:
    """Four ranks have one and two rows each, in at most two micro-batches."""
    run = tmp_path / "run"
    if starter == "torchrun":
        process = started(ranks, preset, "--out", run)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    else:
        output = trained(ranks, preset, "--out", run)
    same_course(run, alone)
    assert output.count(f"{ranks} ranks\n") == 1
    assert output.count("held out for validation") == 1
    ours, theirs = record(run), record(alone)
    assert ours[0].pop("ranks") == ranks
    assert [(e["kind"], e["step"]) for e in ours] == [(e["kind"], e["step"]) for e in theirs]
    assert ours[0]["data"] == theirs[0]["data"]
    assert {p.relative_to(run) for p in run.rglob("*")} == {p.relative_to(alone) for p in alone.rglob("*")}


@pytest.mark.slow
def test_heads_train_on_ranks_too_and_only_the_contrast_has_other_negatives(
    tiny: Any, tmp_path: Path, trained: Trained
) -> None:
    heads = {f"enable_{name}": True for name in ("policy", "value", "dynamics", "multi_token", "span_contrastive")}
    values = tiny(**PLAIN, auxiliary={**heads, "value_horizon": 4, "span_contrastive_weight": 0.0})
    values["train"]["average"] = {"tail": 0.5}
    (tmp_path / "preset.json").write_text(json.dumps(values))
    trained(2, tmp_path / "preset.json", "--out", tmp_path / "two")
    for _ in train(resolve(values), tmp_path / "one"):
        pass
    same_course(tmp_path / "two", tmp_path / "one")
    (ours, theirs) = ([e for e in record(tmp_path / run) if e["kind"] == "step"][-1] for run in ("two", "one"))
    for part in ("next_token", "value", "value_imagined", "dynamics_latent", "dynamics_token", "multi_token", "policy"):
        assert ours[part] == pytest.approx(theirs[part], abs=1e-5), part
    assert ours["span"] < theirs["span"], "three rows have fewer negatives than six, in micro-batches of two and three"
    assert sum(e["kind"] == "auxiliary" for e in record(tmp_path / "two")) == 6
    same_averages(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_ranks_share_the_rows_that_a_curriculum_leaves(tiny: Any, tmp_path: Path, trained: Trained) -> None:
    values = tiny(**PLAIN, method={"name": "pretrain", "curriculum": {"start": 0.2, "until": 0.8}})
    (tmp_path / "preset.json").write_text(json.dumps(values))
    trained(2, tmp_path / "preset.json", "--out", tmp_path / "two")
    for _ in train(resolve(values), tmp_path / "one"):
        pass
    ours, theirs = ([e for e in record(tmp_path / run) if e["kind"] == "step"] for run in ("two", "one"))
    assert ours[0]["tokens"] == theirs[0]["tokens"] == 2 * 16, "two rows of six, one for each rank"
    same_course(tmp_path / "two", tmp_path / "one")


def test_one_rank_is_one_process_bit_for_bit(preset: Path, alone: Path, tmp_path: Path, trained: Trained) -> None:
    trained(1, preset, "--out", tmp_path / "run")
    assert record(tmp_path / "run") == record(alone)
    assert tensors(tmp_path / "run") == tensors(alone)


def rank_of(pid: int) -> str | None:
    """The rank of a process, None where it is none or is gone."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((v.decode().removeprefix("RANK=") for v in variables if v.startswith(b"RANK=")), None)


def workers(torchrun: int) -> dict[str, int]:
    """Process ids of the ranks below a torchrun."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    return {rank: int(child) for child in children if (rank := rank_of(int(child))) is not None}


def wait_for(run: Path, lines: int, process: subprocess.Popen[str]) -> None:
    """Until the record of a run has more than so many lines."""
    path, until = run / "events.jsonl", time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") > lines):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.fixture(scope="module")
def slower(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset with dropout whose steps take some milliseconds, so that a signal finds it at work."""
    values = tiny(train={"steps": 80, "batch_size": 8}, model={"block_size": 64, "n_embd": 32}, sample={"tokens": 0})
    path = tmp_path_factory.mktemp("slower") / "preset.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["1", "0"])
def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_left_alone(
    victim: str, slower: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Bit for bit: gloo adds in an order that follows from sizes and ranks alone. The writer's death is no other."""
    run = tmp_path / "run"
    process = started(2, slower, "--out", run, options=("--max-restarts=1",))
    wait_for(run, 30, process)
    os.kill(workers(process.pid)[victim], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert record(run) == record(undisturbed)
    assert tensors(run) == tensors(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(slower: Path, tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    trained(2, slower, "--out", run)
    return run


@pytest.mark.parametrize("to", ["0", *(pytest.param(to, marks=pytest.mark.slow) for to in ("torchrun", "1"))])
def test_a_signal_stops_all_ranks_saved_and_another_number_of_ranks_goes_on(
    to: str, slower: Path, tmp_path: Path, trained: Trained, forked: Any
) -> None:
    """The signal reaches all of them through torchrun, or one, which tells the others: the first amid its saves."""
    preset, run = tmp_path / "preset.json", tmp_path / "run"
    values = json.loads(slower.read_text())
    preset.write_text(json.dumps({**values, "model": {**values["model"], "dropout": 0.0}}))
    if to == "0":
        mishap = {
            "at": 100,
            "kind": "signal",
            "signals": [signal.SIGTERM],
        }  # changes of files, which rank 0 alone makes
        outcomes = forked.ranks(*[["train", preset, "--out", run]] * 2, mishap=mishap)
        assert [outcome.code for outcome in outcomes] == [128 + signal.SIGTERM] * 2
        output = "".join(outcome.out for outcome in outcomes)
    else:
        process = started(2, preset, "--out", run)
        wait_for(run, 30, process)
        os.kill(process.pid if to == "torchrun" else workers(process.pid)[to], signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
    assert output.count("stopped and saved at step") == 1
    stopped_at = json.loads((run / "checkpoints" / "current" / "state.json").read_text())["step"]
    assert 0 < stopped_at < 80
    assert f"stopped and saved at step {stopped_at};" in output
    assert losses(run, "step")[stopped_at:] == []
    trained(4 if to == "1" else 1, run, "--resume")
    for _ in train(resolve(json.loads(preset.read_text())), tmp_path / "alone"):
        pass
    ours, theirs = losses(run, "step"), losses(tmp_path / "alone", "step")
    assert len(ours) == 80
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.fixture
def differing(preset: Path, tmp_path: Path) -> list[Path]:
    """The folders of two ranks beside a preset, with a text of another length in each."""
    (tmp_path / "preset.json").write_text(preset.read_text())
    folders = [tmp_path / rank for rank in "01"]
    for folder in folders:
        folder.mkdir()
        (folder / "text.txt").write_text(f"Of two machines, machine {folder.name} has another text. " * 50)
    (tmp_path / "0" / "only-0.txt").write_text("Only one of two machines has this text. " * 50)
    return folders


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["optimizer.lr=0.01", "optimizer.lr=0.02"], "preset.optimizer.lr is 0.02 on rank 1 and 0.01 on rank 0"),
        (["data.sources=text.txt"] * 2, "data.vocabulary is "),
        (["data.sources=only-0.txt"] * 2, "only-0.txt: no such file or folder"),
    ],
)
def test_what_differs_between_ranks_is_named_by_all_before_training(
    settings: list[str], says: str, differing: list[Path], tmp_path: Path, forked: Any
) -> None:
    commands = [["train", "../preset.json", setting, "--out", tmp_path / "run"] for setting in settings]
    for outcome in forked.ranks(*commands, folders=differing):
        assert says in outcome.error()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_ends_with_the_exit_code_of_what_differs(differing: list[Path], tmp_path: Path) -> None:
    """Its ranks end both before it can end one of them, and each has said the line."""
    command = f"{sys.executable} -m nanogrove train preset.json optimizer.lr=0.0$((RANK+1)) --out run"
    done = subprocess.run(
        [*TORCHRUN, "--nproc_per_node=2", "--no-python", "bash", "-c", f"exec {command} 2>> said-$RANK"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    line = "error: preset.optimizer.lr is 0.02 on rank 1 and 0.01 on rank 0"
    for rank in "01":
        assert (tmp_path / f"said-{rank}").read_text().startswith(line)
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_model_in_pieces_trains_as_a_whole_one_and_leaves_the_same_folder(
    optimizer: str, tiny: Any, tmp_path: Path, trained: Trained
) -> None:
    """Three ranks, of which some have nothing of the shortest tensors; then one process goes on from their folder."""
    values = tiny(**PLAIN, optimizer={"name": optimizer, "lr": 0.01}, method={"name": "pretrain", "curriculum": {}})
    values["model"]["bias"] = False  # a key's bias has no gradient but rounding
    values["train"]["average"] = {"half_life": 4}
    (tmp_path / "preset.json").write_text(json.dumps(values))
    trained(3, tmp_path / "preset.json", "train.shard=true", "--out", tmp_path / "pieces")
    for _ in train(resolve(values), tmp_path / "whole"):
        pass
    same_course(tmp_path / "pieces", tmp_path / "whole")
    kinds = [[(e["kind"], e["step"]) for e in record(tmp_path / run)] for run in ("pieces", "whole")]
    assert kinds[0] == kinds[1]
    one, other = (load_checkpoint(tmp_path / run / "checkpoints/current") for run in ("pieces", "whole"))
    assert one.optimizer is not None
    assert other.optimizer is not None
    assert one.optimizer.keys() == other.optimizer.keys()
    for ours, theirs in ((one.model, other.model), (one.optimizer, other.optimizer)):
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], atol=2e-5, rtol=1e-3, msg=name)
    same_averages(tmp_path / "pieces", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_in_pieces_stops_and_goes_on_in_one_whole_and_back(
    slower: Path, tmp_path: Path, trained: Trained
) -> None:
    """Two ranks in pieces, stopped; then in pieces again to the end, and beside it the same from one process."""
    values = json.loads(slower.read_text())
    values["model"]["dropout"] = 0.0
    values["train"]["shard"] = True
    preset, run = tmp_path / "preset.json", tmp_path / "run"
    preset.write_text(json.dumps(values))
    process = started(2, preset, "--out", run)
    wait_for(run, 30, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    trained(2, run, "--resume")
    values["train"]["shard"] = False
    for _ in train(resolve(values), tmp_path / "alone"):
        pass
    ours, theirs = losses(run, "step"), losses(tmp_path / "alone", "step")
    assert len(ours) == 80
    assert ours == pytest.approx(theirs, abs=1e-5)


PIECES = """
import json, sys, torch
from pathlib import Path
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.parallel.ranks import joined
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.parallel.sharding import shard_state
from nanogrove.train.state import TrainState
with joined("cpu") as ranks:
    config = ModelConfig(vocab_size=50, block_size=8, n_layer=3, n_head=2, n_embd=32)
    model = GPT(config).initialize(0)
    own = shard_state(TrainState(model, make_optimizer(model, OptimizerConfig())), ranks, torch.device("cpu"))
    tokens = torch.randint(0, 50, (4, 8), generator=torch.Generator().manual_seed(ranks.rank))
    own.model(tokens, tokens).mean().backward()
    own.gradients()
    own.optimizer.step()
    held = sum(p.numel() for _, p in own.named_parameters())
    moments = sum(t.numel() for s in own.optimizer.state.values() for t in s.values() if t.dim())
    figures = [held, moments, sum(p.numel() for p in model.parameters())]
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
Path(sys.argv[1], f"rank-{ranks.rank}.json").write_text(json.dumps([*figures, names.count("pt_gloo_runloop")]))
"""


def test_a_rank_holds_its_share_of_weights_and_moments(tmp_path: Path, forked: Any) -> None:
    (tmp_path / "pieces.py").write_text(PIECES)
    outcomes = forked.ranks(*[[tmp_path]] * 4, script=tmp_path / "pieces.py")
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("rank-*.json")]
    assert len(reports) == 4, [outcome.err for outcome in outcomes]
    whole = reports[0][2]
    assert sum(held for held, _, _, _ in reports) == whole
    assert all(moments == 2 * held for held, moments, _, _ in reports)
    assert all(abs(held / whole - 0.25) < 0.01 for held, _, _, _ in reports)
    # Torch keeps the mesh's group, two threads. That of words is gone, or its threads could abort a rank that ends.
    assert all(threads <= 2 for _, _, _, threads in reports)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "reward_model", "model": {"scalar": True}}, "it goes with method pretrain alone"),
        ({"optimizer": {"name": "muon"}}, "muon needs whole matrices; set optimizer.name=adamw"),
        ({"auxiliary": {"enable_value": True}}, "auxiliary heads cannot be sharded"),
        ({"train": {"compile": True}}, "set train.compile=false"),
        ({"model": {"memory_tokens": 2, "memory_segment": 8}}, "a memory cannot be sharded; set model.memory_tokens=0"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_line(changes: dict, message: str, tiny: Any) -> None:
    with pytest.raises(PresetError, match=f"train.shard: {message}"):
        build(resolve(tiny(**changes), ["train.shard=true"]), ranks=Ranks(0, 2))
    with pytest.raises(PresetError, match=r"train.shard: there is one rank; start several with torchrun"):
        build(resolve(tiny(), ["train.shard=true"]))


@pytest.fixture(scope="module")
def bred(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five members of rates of their own, with heads and dropout, bred three times."""
    method = {
        "name": "evolve",
        "population_size": 5,
        "generations": 4,
        "steps_per_generation": 5,
        "significance": None,
        "parents": 0.4,
        "noise": 0.01,
        "crossover": "layers",
        "vary": {"lr": {"low": 1e-3, "high": 0.1}, "weight_decay": {"values": [0.0, 0.1]}},
    }
    plain: dict[str, Any] = {**PLAIN, "model": {"dropout": 0.2}}
    plain["train"] = {**PLAIN["train"], "steps": None, "average": {"half_life": 4}}  # type: ignore[dict-item]
    values = tiny(
        method=method,
        auxiliary={"enable_value": True, "enable_dynamics": True, "value_horizon": 4},
        evaluate={"every": 3, "tokens": 300},
        **plain,
    )
    path = tmp_path_factory.mktemp("bred") / "preset.json"
    path.write_text(json.dumps(values))
    return path


def alike(ours: Any, theirs: Any) -> None:
    """The same, and numbers that are no whole ones to 1e-4."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            alike(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            alike(one, other)
    else:
        assert ours == (pytest.approx(theirs, abs=1e-4, rel=1e-4) if isinstance(ours, float) else theirs)


def test_a_population_on_two_ranks_is_the_population_of_one_process(
    bred: Path, tmp_path: Path, trained: Trained
) -> None:
    """One rank has two members, the other three. All is the same: figures of each step, scores, births, heads."""
    trained(2, bred, "--out", tmp_path / "two")
    for _ in train(resolve(json.loads(bred.read_text())), tmp_path / "one"):
        pass
    ours, theirs = record(tmp_path / "two"), record(tmp_path / "one")
    assert ours[0].pop("ranks") == 2
    assert [(e["kind"], e["step"]) for e in ours] == [(e["kind"], e["step"]) for e in theirs]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        alike(one, other)
        if one["kind"] == "step":
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    assert sum(len(e["births"]) for e in ours if e["kind"] == "generation" and "births" in e) == 3
    same_averages(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["1", "0"])
def test_members_of_a_killed_rank_go_on_bit_for_bit(victim: str, bred: Path, tmp_path: Path, trained: Trained) -> None:
    longer = json.loads(bred.read_text())
    longer["method"]["steps_per_generation"] = 15
    longer["save"] = {"every": 7}
    (tmp_path / "preset.json").write_text(json.dumps(longer))
    trained(2, tmp_path / "preset.json", "--out", tmp_path / "undisturbed")
    process = started(2, tmp_path / "preset.json", "--out", tmp_path / "run", options=("--max-restarts=1",))
    wait_for(tmp_path / "run", 20, process)
    os.kill(workers(process.pid)[victim], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert record(tmp_path / "run") == record(tmp_path / "undisturbed")
    assert tensors(tmp_path / "run") == tensors(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_population_stopped_on_two_ranks_goes_on_alone(bred: Path, tmp_path: Path, trained: Trained) -> None:
    longer = json.loads(bred.read_text())
    longer["method"]["steps_per_generation"] = 30
    longer["save"] = {"every": 1000}
    (tmp_path / "preset.json").write_text(json.dumps(longer))
    process = started(2, tmp_path / "preset.json", "--out", tmp_path / "run")
    wait_for(tmp_path / "run", 40, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    trained(1, tmp_path / "run", "--resume")
    for _ in train(resolve(longer), tmp_path / "alone"):
        pass
    ours, theirs = losses(tmp_path / "run", "step"), losses(tmp_path / "alone", "step")
    assert len(ours) == 120
    assert [loss for row in ours for loss in row] == pytest.approx([loss for row in theirs for loss in row], abs=1e-4)


@pytest.mark.slow
def test_a_committee_on_three_ranks_labels_and_learns_as_in_one_process(
    tiny: Any, tmp_path: Path, trained: Trained
) -> None:
    values = tiny(
        method={"name": "self_improve", "si_rounds": 2, "si_iter": 4, "examples": 30, "guard_agreement": 0.0},
        data=None,
        model={"family": "llama", "position": "none", "dropout": 0.0},
        auxiliary={"enable_multi_token": True},
        train={"steps": 20, "batch_size": 16, "average": {"tail": 0.5}},
        sample={"tokens": 0},
    )
    values["data"] = {"type": "task", "task": "copy", "base": [1, 2], "held_out": 20}
    (tmp_path / "preset.json").write_text(json.dumps(values))
    trained(3, tmp_path / "preset.json", "--out", tmp_path / "three")
    for _ in train(resolve(values), tmp_path / "one"):
        pass
    ours, theirs = record(tmp_path / "three"), record(tmp_path / "one")
    assert [(e["kind"], e["step"]) for e in ours] == [(e["kind"], e["step"]) for e in theirs]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        alike(one, other)
    same_averages(tmp_path / "three", tmp_path / "one")
    names = sorted(path.name for path in (tmp_path / "one/data").iterdir())
    assert names
    for name in names:
        assert (tmp_path / "three/data" / name).read_bytes() == (tmp_path / "one/data" / name).read_bytes()


def test_what_ranks_cannot_do_is_refused_in_a_line(tiny: Any) -> None:
    with pytest.raises(PresetError, match=r"train.batch_size=4 is fewer sequences than the 8 ranks"):
        build(resolve(tiny()), ranks=Ranks(0, 8))
    with pytest.raises(PresetError, match="8 members are fewer than the 9 ranks; start 8 at most"):
        build(resolve(tiny(method="evolve", train={"steps": None})), ranks=Ranks(0, 9))
    with pytest.raises(PresetError, match="method evolution_strategies trains in one process; start it without"):
        build(resolve(tiny(method="evolution_strategies")), ranks=Ranks(0, 2))
    shared = {name: load_method(name).ranks_share for name in METHODS}
    assert {name for name, what in shared.items() if what == "batch"} == {"pretrain", "reward_model"}
    assert {name for name, what in shared.items() if what == "members"} == {"evolve", "self_improve"}


def test_ranks_are_what_torchrun_says() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    assert Ranks.from_environment(torchrun) == Ranks(3, 4, 1, 2)
    assert Ranks.from_environment({}) is not None
    assert Ranks.from_environment({"WORLD_SIZE": "8"}) == ALONE, "of another program"
    assert Ranks.from_environment({**torchrun, "WORLD_SIZE": "1"}) == ALONE
    for broken in ({"RANK": "4"}, {"LOCAL_RANK": "x"}, {"MASTER_PORT": ""}):
        with pytest.raises(RunError, match="start with `torchrun"):
            Ranks.from_environment({**torchrun, **broken})


@pytest.mark.parametrize("population", [None, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_parts_of_a_batch_are_its_rows_in_order(world: int, population: int | None) -> None:
    tokens = torch.arange(35).view(7, 5)
    batch = Batch(tokens, tokens + 1, tokens % 2 == 0, tokens.float(), torch.arange(7), {"row": torch.arange(7)})
    batch = batch.expand(population)
    parts = [batch.part(number, world) for number in range(world)]
    sizes = [part.tokens.shape[-2] for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for name, dim in (("tokens", -2), ("targets", -2), ("mask", -2), ("weight", -2), ("source", -1)):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], dim), getattr(batch, name))
    assert torch.equal(torch.cat([part.extra["row"] for part in parts], -1), batch.extra["row"])


def test_buckets_hold_all_tensors_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "MAX_ELEMENTS_PER_BUCKET", 10)
    sizes = [3, 4, 3, 1, 40, 0, 10]
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(2, dtype=torch.float64)]
    buckets = list(distributed._buckets(tensors))
    assert [[t.numel() for t in bucket] for bucket in buckets] == [[3, 4, 3], [1], [40], [0, 10], [2]]
    assert [id(t) for bucket in buckets for t in bucket] == [id(t) for t in tensors]
