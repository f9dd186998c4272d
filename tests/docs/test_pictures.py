"""Reports in a browser, where there is one: they ask for nothing, names are no links, and a telephone is wide enough.

The pages are made of what a record may hold at worst. This needs Chromium, Node and playwright-core; see
`python docs/pictures.py --help`.
"""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nanogrove.config.catalog import list_presets, read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.record.events import Event, phase
from nanogrove.reports.report import write_report

DOCS = Path(__file__).parents[2] / "docs"
NAMES = [
    '<a href="https://example.org">a link</a>',
    "<script>document.title = 'taken'</script>",
    "javascript:alert(1)",
    "%{x} %{customdata} $\\alpha$ &lt;b&gt; &#x3c;i>",
    "a name without any space ".replace(" ", "_") * 20,
    "words of a long name " * 20,
    "‮from right to left",
]


@pytest.fixture
def pictures() -> ModuleType:
    """The script that takes pictures, as a module."""
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_is_of_a_report_and_small(pictures: ModuleType) -> None:
    for name, picture in pictures.PICTURES.items():
        assert picture.report in pictures.REPORTS | pictures.STUDIES
        assert (DOCS / "pictures" / f"{name}.webp").stat().st_size < 60_000


def test_every_preset_has_a_report_or_a_reason(pictures: ModuleType) -> None:
    drawn = {report.preset for report in pictures.REPORTS.values()}
    assert drawn | pictures.LEFT_OUT.keys() == set(list_presets())
    assert not drawn & pictures.LEFT_OUT.keys()


def test_the_settings_of_every_report_are_those_of_its_preset(pictures: ModuleType) -> None:
    everywhere = pictures.EVERYWHERE.split()
    for name, (preset, overrides) in (pictures.REPORTS | pictures.STUDIES).items():
        settings = resolve(read_preset_file(preset), [*everywhere, *overrides.partition(" --")[0].split()])
        assert settings.train.accumulation == 1, name
    one_round = pictures.REPORTS["self-improve-one-round"].overrides.split()
    method = resolve(read_preset_file("self-improve-quick"), one_round).method.model_dump()
    assert (method["si_rounds"], method["si_iter"], method["to"]) == (1, 10, 4)


def generation(number: int, name: str, members: int) -> Event:
    values: dict[str, Any] = {"generation": number, "members": list(range(members)), "unit": name}
    values |= {
        "score": [1.0 + m / 10 for m in range(members)],
        "values": {name: [0.1 * (m + 1) for m in range(members)]},
    }
    return Event("generation", number, {**values, "births": [], "distance": {"weights": 0.1, "predictions": None}})


def record(name: str, steps: int, members: int) -> Iterator[Event]:
    """A record in which all text is a name; NaN, infinite and missing figures; a heat map of one round."""
    data = {"documents": 5, name: name, "in it": {name: [name, {name: name}]}, "trees": [[[name], [name, name]]]}
    yield Event("start", 0, {"name": name, "method": name, "device": name, "seed": name, "data": data})
    yield phase(name, 0, name, name, "score")
    if not steps:
        return
    for n in range(1, steps + 1):
        loss: Any = [float("nan") if m == n else 2.0 + m for m in range(members)]
        evaluation = {"loss": 2.0, "seen": n, "score": float("inf"), "kl": 0.1, "bayes_loss": 1.0, "accuracy": 0.5}
        yield Event("eval", n, {**evaluation, "chosen_log_prob": -1.0}, {"seconds": float(n)})
        yield Event("step", n, {"loss": loss if members > 1 else loss[0], "tokens": n, "lr": 0.1, "grad_norm": 1.0})
        yield generation(n, name, members)
    yield phase(name, 1, name)
    yield Event("sources", 1, {"names": [name] * 20, "loss": [1.0] * 20, "share": [0.05] * 20, "seen": 1})
    yield Event("exact", 1, {"round": 0, "difficulties": [1], "exact": [0.5], "vote": [0.5], "agreement": [0.5]})
    label = {"difficulty": 1, "precision": 0.5, "kept": 0.5, "filters": {name: {"precision": 1, "recall": 1}}}
    yield Event("round", 1, {"round": 1, "labels": [label], "ended": name})
    yield Event("alarm", 1, {"round": 1, "reason": name})
    yield Event("rewards", 1, {"texts": 2, "histogram": {"edges": [0, 1, 2], "counts": [1, 1]}})
    for n in (0, 1):
        yield Event("reward", n, {"round": n, "mean": 0.5, "error": 0.1, "texts": [{"prompt": name, "text": name}]})
    shares = {"value": 0.5, "policy": 0.0}
    yield Event("auxiliary", 1, {"shares": shares, "measures": {"latent_cosine": [0.5] * 9}, "idle": [name], "seen": 1})
    yield Event("sample", 1, {"prompt": name, "text": name})
    yield Event("sample", 2, {"prompt": name, "text": ""})


@pytest.mark.slow
def test_no_page_harms_its_reader_or_its_layout(tmp_path: Path, pictures: ModuleType) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or not shutil.which("node") or not (pictures.FOLDER / "node_modules").exists():
        pytest.skip("Chromium, Node or playwright-core is missing")
    jobs = []
    for number, name in enumerate(NAMES):
        for steps, members in ((3, 1), (1, 64), (0, 1)) if not number else ((3, 1),):
            run = tmp_path / f"{number}-{steps}-{members}"
            run.mkdir()
            (run / "preset.json").write_text(json.dumps({name: [name]}))
            (run / "events.jsonl").write_text("".join(event.line() for event in record(name, steps, members)))
            page = str(write_report(run))
            jobs += [
                {"page": page, "out": str(run / f"{width}.png"), "width": width, "scheme": scheme, "height": None}
                for width, scheme in ((375, "light"), (1100, "dark"))
            ]
    command = ["node", str(DOCS / "pictures.mjs"), str(pictures.FOLDER), browser]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
