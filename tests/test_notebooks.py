"""The notebooks run from top to bottom, small, in a kernel; stored, they hold no outputs and no paths."""

import ast
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from nanogrove.language_model import load
from nanogrove.record.events import Event, read_events

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
TREES = ("trees", "rhm")  # cells that draw edges, with gaps between them
PLOTLY = "application/vnd.plotly.v1+json"
PATH = re.compile(r"""(?<![\w.)\]}>:/])(?:~?/\w|~\\|[A-Za-z]:[\\/](?!/)|file:)""")  # absolute, of any system


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=nbformat.NO_CONVERT)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookClient]:
    """A kernel for all notebooks, which begin in it one after the other; it is gone at the end."""
    folder = tmp_path_factory.mktemp("kernel")
    processes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(variable, str(folder / "jupyter"))  # nothing of the user's is read or written
        patch.chdir(folder)  # where the kernel begins too, so that both find its sockets by a short name
        patch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
        patch.setenv("NANOGROVE_NOTEBOOK_SMALL", "1")
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": "kernel"}})  # files instead of network ports
        client = NotebookClient(nbformat.v4.new_notebook(), timeout=60, config=sockets)
        client.on_notebook_start = lambda notebook: processes.append(client.km.provisioner.pid)
        client.execute(cleanup_kc=False)
        yield client
        client.nb = nbformat.v4.new_notebook()
        client.execute()
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


@pytest.fixture
def executed(kernel: NotebookClient, tmp_path: Path):
    """Runs a notebook at its small size, in the folder of the test, and returns it with its outputs.

    Before it no name is defined, and the environment is that of the tests.
    """
    begin = nbformat.v4.new_code_cell()
    environment = dict(os.environ)
    statements = f"import os; os.chdir({str(tmp_path)!r}); os.environ.clear(); os.environ.update({environment!r})"
    begin.source = f"%reset -f\nexec({statements!r}, {{}})"

    def execute(name: str) -> Any:
        notebook = read(name)
        notebook.cells.insert(0, begin)
        kernel.nb = notebook
        kernel.execute(cleanup_kc=False)
        del notebook.cells[0]
        return notebook

    return execute


def figures(notebook: Any) -> dict[str, Any]:
    """The figures shown, by the id of their cell; each is there, draws numbers only, and came without a warning."""
    by_cell = {}
    for cell in code(notebook):
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.outputs
        shown = [output.data[PLOTLY] for output in cell.outputs if PLOTLY in output.get("data", {})]
        assert len(shown) == cell.source.count(".show()"), cell.id
        for figure in shown:
            for trace in figure["data"]:
                drawn = trace.get("z", trace.get("y"))
                assert drawn, f"{cell.id}: nothing is drawn"
                assert cell.id in TREES or "null" not in json.dumps(drawn), f"{cell.id}: a value is NaN or infinite"
            by_cell[cell.id] = figure
    return by_cell


@pytest.mark.slow
def test_the_grammar_is_explored(executed) -> None:
    shown = figures(executed("rlm_explore.ipynb"))
    assert len(shown) == 12
    entropy = shown["rule-entropy"]["data"]
    assert entropy[0]["y"][0] == pytest.approx(2), "all v² rules equally likely at beta 0"
    assert entropy[0]["y"] == sorted(entropy[0]["y"], reverse=True)
    assert shown["order"]["data"][0]["y"][0] == pytest.approx(0, abs=1e-12)
    exact, counted = (trace["y"] for trace in shown["prefix"]["data"])
    assert exact == pytest.approx(counted, abs=0.2)
    best, bigram, unigram = (trace["y"] for trace in shown["best-loss"]["data"])
    assert all(b <= u + 0.1 for b, u in zip(best, unigram, strict=True))
    assert all(b <= p + 0.1 for b, p in zip(best[1:], bigram, strict=True))


@pytest.mark.slow
def test_a_model_is_trained_and_compared_with_its_grammar(executed, tmp_path: Path) -> None:
    notebook = executed("rlm_results.ipynb")
    shown = figures(notebook)
    assert len(shown) == 7
    end = read_events(tmp_path / "runs/rlm-notebook/events.jsonl")[-1]
    assert end.kind == "end"
    _, validation, best = (trace["y"] for trace in shown["loss"]["data"])
    assert best[-1] < validation[-1] < validation[0]
    bigram, uniform = (shape["y0"] for shape in shown["loss"]["layout"]["shapes"])
    assert best[-1] < bigram < uniform == pytest.approx(math.log(8))
    fresh, test = (trace["y"] for trace in shown["divergence"]["data"])
    assert fresh[0] == pytest.approx(test[0], rel=1e-3), "nothing is seen yet, so it is the same for all texts"
    assert fresh == pytest.approx(test, rel=0.2), "the same model on other texts of the same grammar"
    exact, model = (trace["y"] for trace in shown["predictions"]["data"])
    assert sum(exact) == pytest.approx(1)
    assert 0.5 < sum(model) < 1, "some of it is the end-of-text token's"
    over_steps = [trace["y"] for trace in shown["snapshots"]["data"]]
    assert all(0 < line[-1] < line[0] for line in over_steps)
    assert shown["snapshot-predictions"]["data"][0]["z"][-1] == sorted(exact, reverse=True)
    printed = code(notebook)[-1].outputs[0]["text"]
    assert float(re.search(r"^excess +(\S+)$", printed, re.MULTILINE)[1]) > 0


@pytest.mark.slow
def test_rounds_are_drawn_as_recorded_and_go_on_where_they_were_cut_off(executed, tmp_path: Path) -> None:
    models = tmp_path / "runs/self-improve-notebook/models-small"

    def recorded() -> dict[str, list[Event]]:
        return {name: read_events(models / name / "events.jsonl") for name in ("base", "rounds", "control")}

    notebook = executed("self_improve.ipynb")
    shown, before = figures(notebook), recorded()
    assert [(record[-1].kind, record[-1].step) for record in before.values()] == [("end", 80), ("end", 6), ("end", 6)]
    assert [sum(e.kind == "data" for e in record) for record in before.values()] == [0, 2, 0], "labels of the rounds"
    exact = {
        name: [
            (e.values["round"], difficulty, pytest.approx(fmean(voters)))
            for e in record
            if e.kind == "exact"
            for difficulty, voters in zip(e.values["difficulties"], e.values["exact"], strict=True)
        ]
        for name, record in before.items()
    }
    (cells,) = shown["map"]["data"]
    assert list(zip(cells["x"], cells["y"], cells["z"], strict=True)) == exact["rounds"]
    assert [trace["name"] for trace in shown["lines"]["data"]] == list(exact)
    for trace, shares in zip(shown["lines"]["data"], exact.values(), strict=True):
        last = [(difficulty, share) for number, difficulty, share in shares if number == shares[-1][0]]
        assert list(zip(trace["x"], trace["y"], strict=True)) == last, trace["name"]
    kept, precision = shown["labels"]["data"]
    rows_of_rounds = [
        map(json.loads, (models / f"rounds/data/round-{n}.jsonl").read_text().splitlines()) for n in (1, 2)
    ]
    right = [[row["answer"] == row["prompt"][:-1] for row in rows] for rows in rows_of_rounds]
    assert kept["x"] == precision["x"] == [1, 2]
    assert kept["y"] == pytest.approx([len(rows) / 16 for rows in right])
    assert precision["y"] == pytest.approx([fmean(rows) for rows in right])
    printed = code(notebook)[-1].outputs[0]["text"].splitlines()
    assert printed == load(models / "rounds").generate(["12=", "345="], tokens=4, temperature=0)

    shutil.rmtree(models / "rounds/checkpoints/current")  # as if it had ended after the first round
    shutil.rmtree(models / "control")
    again, after = figures(executed("self_improve.ipynb")), recorded()
    assert {name: figure["data"] for name, figure in again.items()} == {n: f["data"] for n, f in shown.items()}
    for name, steps in (("base", 80), ("rounds", 3), ("control", 0)):
        old, new = ([e for e in records[name] if e.kind == "step"] for records in (before, after))
        assert sum(a.time == b.time for a, b in zip(old, new, strict=True)) == steps, f"{name}: steps not made again"
        assert [replace(e, time={}) for e in after[name]] == [replace(e, time={}) for e in before[name]]


def test_on_colab_folders_lie_on_the_mounted_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOGROVE_CACHE", "elsewhere")
    mounted: list[str] = []
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=SimpleNamespace(mount=mounted.append)))
    names: dict[str, Any] = {}
    exec(code(read("self_improve.ipynb"))[0].source, names)
    assert mounted == [str(tmp_path / "drive")]
    for folder in (names["DATA_DIR"], names["MODELS_DIR"]):
        assert folder.resolve().is_relative_to(tmp_path / "drive/MyDrive")
    assert os.environ["NANOGROVE_CACHE"] == str(names["DATA_DIR"])


def test_there_are_three() -> None:
    assert NAMES == ["rlm_explore.ipynb", "rlm_results.ipynb", "self_improve.ipynb"]


@pytest.mark.parametrize("name", NAMES)
def test_stored_without_outputs_and_paths(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert not cell.metadata, cell.id
        assert not PATH.search(cell.source), PATH.search(cell.source)
    for cell in code(notebook):
        assert cell.outputs == [], cell.id
        assert cell.execution_count is None, cell.id


@pytest.mark.parametrize("source", ["Path('/home/me')", "cd /tmp", "~/runs", r'"C:\runs"', "file:///x", "(/a)"])
def test_an_absolute_path_is_seen(source: str) -> None:
    assert PATH.search(source)


@pytest.mark.parametrize("source", ["runs/one", "1 / v", "β²/2", "f(x)/n", "https://a.org/b", "nats/token", "a[0]/b"])
def test_a_quotient_is_no_path(source: str) -> None:
    assert not PATH.search(source)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_capital_and_in_the_first_code_cell_alone(name: str) -> None:
    first, *others = code(read(name))
    assert {name for name in assigned(first.source) if not name.isupper()} == set()
    assert "NANOGROVE_NOTEBOOK_SMALL" in first.source
    for cell in others:
        later = {name for name in assigned(cell.source) if name.isupper()}
        assert later <= {"T"}, f"{cell.id}: {later}"


def assigned(source: str) -> set[str]:
    """The names that a cell gives a value to, those inside comprehensions left out."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign | ast.AugAssign)]
    targets = [target for node in statements for target in getattr(node, "targets", None) or [node.target]]
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
