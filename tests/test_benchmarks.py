"""Benchmarks start, that of a GPU refuses in one line without one, and the scripts that compare and count are right."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nanogrove.config.overrides import resolve
from nanogrove.errors import DataError
from nanogrove.explore.findings import explore
from nanogrove.record.events import read_events
from nanogrove.runs.train import train

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


STAND_IN = """
from types import SimpleNamespace
import torch
from torch import nn

def GPTConfig(**settings):
    return SimpleNamespace(**settings)

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, tokens, targets):
        logits = self.head(self.embed(tokens))
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def generate(self, tokens, new_tokens):
        return tokens

    def configure_optimizers(self, weight_decay, rate, betas, device):
        return torch.optim.AdamW(self.parameters(), lr=rate, betas=betas, weight_decay=weight_decay)
"""


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_at_a_tiny_size_against_a_stand_in_for_its_peer(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(STAND_IN)
    text = tmp_path / "text.txt"
    text.write_text("sphinx of black quartz, judge my vow\n" * 300)
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--nanogpt", str(tmp_path), "--text", str(text)]
    done = subprocess.run([*command, "--device", "cpu", "--tiny"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "TFLOP/s in bfloat16" in lines[0]
    assert lines[1].startswith("2 members of 2 x 64")
    ours = next(line for line in lines if line.startswith("nanogrove"))
    assert "inf" not in ours, "ours must reach the tiny target"
    assert lines[-1].startswith("nanoGPT / nanogrove = ")


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_every_script_says_what_it_does(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert script.name == "side_by_side.py" or "usage" in done.stdout


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Reads a benchmark as a module."""

    def read(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return read


Script = Callable[[str], ModuleType]
TinyRun = Callable[..., list[str]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmark_refuses_in_one_line(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("side_by_side", "training_step", "time_to_loss"):
        script(name)
    gpu = script("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu", "--nanogpt", "nowhere", "--text", "nothing.txt"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    error = capsys.readouterr().err
    assert error.startswith("error: no GPU is at hand")
    assert len(error.strip().splitlines()) == 1


@pytest.fixture
def tiny_run(script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TinyRun:
    """Runs a benchmark in this process at its tiny size, two rounds of it: the lines it prints."""

    def run(module: ModuleType, *options: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, "--tiny", "--rounds", "2", *options])
        module.main()
        return capsys.readouterr().out.splitlines()

    script("side_by_side")
    script("llama_cpp")
    return run


def ratio_in(line: str) -> float:
    """The number that follows the last colon of a line, before what is asked of it."""
    return float(line.rpartition(": ")[2].partition(",")[0])


def test_generation_is_timed_against_its_peers(script: Script, tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(STAND_IN)
    lines = tiny_run(script("generation"), "--nanogpt", str(tmp_path))
    ratios = {line.rpartition(": ")[0]: ratio_in(line) for line in lines if " over " in line}
    peers = {name.partition(" over ")[2] for name in ratios}
    assert peers == {f"{peer}, batch {batch}" for peer in ("nanoGPT", "transformers") for batch in (16, 1)}
    assert min(ratio for name, ratio in ratios.items() if "transformers" in name) > 0
    assert any(line.startswith("stream beside generate, batch 1: ") for line in lines)


def test_without_llama_cpp_its_benchmark_says_what_to_install(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llama_cpp = script("llama_cpp")
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        llama_cpp.require()
    assert end.value.code == 2
    assert "pip install 'nanogrove[bench]'" in capsys.readouterr().err


def test_a_student_that_is_distilled_afterwards_is_that_of_the_run(script: Script, tiny: Any, tmp_path: Path) -> None:
    method = {"name": "ensemble", "members": 2}
    sections = {"evaluate": {"every": 3, "final": "test"}, "sample": {"tokens": 0}, "optimizer": {"lr": 0.01}}
    for name, further in (("without", {}), ("with", {"distill_steps": 4, "data_share": 0.25})):
        preset = tiny(method={**method, **further}, train={"steps": 4, "batch_size": 4}, **sections)
        for _ in train(resolve(preset), tmp_path / name, report=False):
            pass
    script("ensemble").distilled(tmp_path / "without", 4, 0.25, "test", tmp_path / "student.json")
    end = read_events(tmp_path / "with" / "events.jsonl")[-1].values
    assert json.loads((tmp_path / "student.json").read_text())["loss"] == pytest.approx(end["student_loss"], abs=1e-12)


@pytest.mark.slow
def test_a_server_is_measured_under_load(script: Script, tiny_run: TinyRun) -> None:
    lines = tiny_run(script("serving"))
    assert [line.partition(" ")[0] for line in lines] == ["one", "64", "first", "from", "the"]
    assert 0 < float(lines[-1].rpartition("after ")[2].partition(" ")[0]) < 60_000


def test_a_step_with_muon_is_timed_against_one_with_adamw(script: Script, tiny_run: TinyRun) -> None:
    lines = tiny_run(script("muon_step"))
    assert lines[-1].startswith("Muon over AdamW, ")
    assert ratio_in(lines[-1]) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of transformers
def test_a_step_of_adapters_is_timed_against_that_of_peft(script: Script, tiny_run: TinyRun) -> None:
    pytest.importorskip("peft")
    lines = tiny_run(script("adapter_step"))
    assert all(ratio_in(line) > 0 for line in lines[-3:])


def test_a_step_and_a_token_are_taken_apart_with_the_c_kernels_and_without(
    script: Script, tiny_run: TinyRun, tmp_path: Path
) -> None:
    script("training_step")
    lines = tiny_run(script("profiles"), "--pictures", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"profile-step.html", "profile-token.html"}
    parts: dict[str, dict[str, float]] = {}
    for line in lines[1:]:
        if line.startswith("Milliseconds"):
            parts[line] = {}
        elif line.startswith(" "):
            value, _, kind = line.strip().partition(" ")
            parts[next(reversed(parts))][kind] = float(value)
    assert len(parts) == 6
    for title, seconds in parts.items():
        assert seconds.keys() >= {"all", "matrix products", "attention", "norms"}
        assert ("sampling" in seconds) == ("of a token" in title)
        assert ("AdamW" in seconds) == ("of a step" in title)
        assert sum(seconds.values()) == pytest.approx(2 * seconds["all"], abs=0.01)


def test_growth_is_measured_along_every_axis(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script("side_by_side")
    script("training_step")
    growth = script("growth")
    monkeypatch.setattr(growth, "STEPS", 1)
    monkeypatch.setattr(growth, "SECONDS", 0.0)
    for axis, values in growth.AXES.items():
        milliseconds, megabytes = growth.one(axis, 2 * values[0] if axis == "batch" else values[0])
        assert milliseconds > 0
        assert megabytes >= 0


def test_members_that_decode_at_once_write_what_each_writes(script: Script, tiny_run: TinyRun) -> None:
    lines = tiny_run(script("decoding_members"))
    assert "of their likeliest tokens 100.0% are equal" in lines
    assert ratio_in(lines[-1]) > 0


def test_a_population_is_held_against_the_better_of_a_loop_and_processes(
    script: Script, tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    population, ratios = script("population"), list[float]()
    for seconds in (0.2, 0.0):  # of a step of the processes, which are worse than a loop and then better
        monkeypatch.setattr(
            population, "side_by_side_processes", lambda *_, s=seconds: nullcontext(lambda steps: time.sleep(s))
        )
        lines = tiny_run(population, "--members", "2")
        ratios.append(ratio_in(next(line for line in lines if "over the best" in line)))
    assert ratios[0] > ratios[1]


@pytest.mark.slow
def test_processes_that_train_members_side_by_side_say_their_rate() -> None:
    command = [sys.executable, str(BENCHMARKS / "population.py"), "--tiny", "--members", "2", "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.partition("processes ")[2].split()[0]) > 1


@pytest.mark.slow
def test_pretrained_weights_are_compared_with_none(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "pretrained.py"), "--tiny", "--out", str(tmp_path), "--seeds", "6"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pretrained" in done.stdout.splitlines()[-2]


def write_run(folder: Path, loss: float, weight: float, seconds: float) -> None:
    """What a run leaves, in short."""
    saves = folder / "checkpoints" / "best"
    saves.mkdir(parents=True)
    events = [{"kind": "step", "step": 1, "loss": loss, "time": {"seconds": seconds}}]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (saves / "state.json").write_text(json.dumps({"step": 1, "seconds": seconds, "notes": {"open": [1, 2]}}))
    save_file({"one": torch.zeros(3), "two": torch.tensor([1.0, weight])}, saves / "model.safetensors")


@pytest.mark.parametrize(
    ("loss", "weight", "first"),
    [
        (2.0, 5.0, None),
        (2.5, 5.0, "events.jsonl 1 (step of step 1): loss 2.0 became 2.5"),
        (2.0, 5.000001, "checkpoints/best/model.safetensors: two: 'F32 [2] "),
    ],
)
def test_the_first_difference_of_two_runs_is_named_and_clocks_are_none(
    script: Callable[[str], ModuleType], tmp_path: Path, loss: float, weight: float, first: str | None
) -> None:
    same_bits = script("same_bits")
    write_run(tmp_path / "one", 2.0, 5.0, seconds=1.0)
    write_run(tmp_path / "two", loss, weight, seconds=2.0)
    one, two = (same_bits.contents(tmp_path / name) for name in ("one", "two"))
    difference = same_bits.difference(one, two)
    assert difference == first or difference.startswith(first)
    assert same_bits.difference(one, {}) is not None
    assert same_bits.difference({}, one) is not None


def test_every_preset_is_a_case_that_can_be_made_tiny(script: Callable[[str], ModuleType]) -> None:
    same_bits = script("same_bits")
    presets = same_bits.read_presets(BENCHMARKS.parent)
    cases = same_bits.all_cases(presets)
    assert presets.keys() <= cases.keys()
    for case in cases.values():
        assert {*case.needs} <= cases.keys()
        assert case.preset is None or 'train.device="cpu"' in same_bits.overrides(case, presets[case.preset])
    chosen = [case.name for case in same_bits.chosen(cases, ["adaptive-excess_loss"])]
    assert chosen == ["mix-weighted", "adaptive-excess_loss"]


SMALL = {"short_rows": 50, "long_line": 1 << 20, "many_files": 5, "huge_text": 1 << 23, "huge_lists": 1 << 21}


@pytest.mark.slow
def test_the_files_of_the_bounds_are_looked_at_or_refused(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    refused = {}
    for number, case in enumerate(script("bounds").CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = case.write(folder, SMALL.get(case.write.__name__, 20))
        try:
            explore(str(path))
        except DataError as error:
            refused[case.name] = str(error)
    assert refused.keys() == {"own keys", "huge text, Parquet", "huge lists, Parquet"}


CHECKOUT = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
run.mkdir(parents=True)
(run / "events.jsonl").write_text(json.dumps({"kind": "end", "step": 3, "loss": LOSS, "time": {}}) + "\\n")
"""


@pytest.mark.slow
def test_two_checkouts_are_compared(tmp_path: Path) -> None:
    for name, loss in (("before", "1.0"), ("after", "1.5")):
        package = tmp_path / name / "src" / "nanogrove"
        (package / "presets").mkdir(parents=True)
        (package / "presets" / "small.json").write_text(
            json.dumps({"data": {"type": "rlm"}, "method": {"name": "evolve"}})
        )
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(CHECKOUT.replace("LOSS", loss))
    command = [sys.executable, str(BENCHMARKS / "same_bits.py"), str(tmp_path / "before")]
    for other, code, line in (
        ("after", 1, "small                       events.jsonl 1 (end of step 3): loss 1.0 became 1.5"),
        ("before", 0, "small                       equal"),
    ):
        further = [str(tmp_path / other), "small", "--keep", str(tmp_path / "kept")]
        done = subprocess.run([*command, *further], capture_output=True, text=True)
        assert (done.returncode, done.stdout.splitlines()[0]) == (code, line), done.stderr


TOY = {
    "__init__.py": "",
    "bottom.py": "from typing import Any\n\ndef add(one: Any, two: Any) -> int:\n    return sum([one, two])\n",
    "middle.py": "from toy import bottom\n\ndef of(x):\n    return getattr(x, 'y', 0) + bottom.add(3, 7)\n",
    "top.py": ("from toy.middle import of\n\ndef run(x):\n    from toy import under\n    return of(x[0]), of(x[1])\n"),
    "under.py": "def late():\n    import toy.top\n",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A package of four modules, two of which import each other inside of functions."""
    folder = tmp_path / "toy"
    folder.mkdir()
    for name, source in TOY.items():
        (folder / name).write_text(source)
    return folder


def test_the_figures_of_a_source_tree(script: Callable[[str], ModuleType], toy: Path) -> None:
    lines = list(script("house").measure(toy))
    assert lines == [
        "5 files, 15 lines",
        "Any: 2, 133.3 per 1,000 lines",
        "getattr with a default: 1",
        "isinstance: 0",
        "files above 400 lines: 0",
        "functions above 60 lines: 0",
        "circles of imports: 1; toy.top and toy.under",
    ]
    (toy / "long.py").write_text("def long():\n" + "    pass\n" * 400)
    lines = list(script("house").measure(toy))
    assert lines[4:6] == ["files above 400 lines: 1; toy.long 401", "functions above 60 lines: 1; toy.long.long 401"]


def test_the_way_through_a_package_is_of_first_calls(
    script: Callable[[str], ModuleType], toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = script("walk")
    monkeypatch.syspath_prepend(str(toy.parent))
    with walk.recorded_calls(toy) as calls:
        assert import_module("toy.top").run([1, 2]) == (10, 10)
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
        del sys.modules[name]
    way = walk.first_calls(calls)
    assert list(walk.lines(way)) == ["top.py: run", "middle.py: of", "bottom.py: add"]
    assert walk.counted(way) == (3, 3, 2)
