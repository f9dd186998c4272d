"""The page of a study: its report's sections, its runs and how far it is, notes, and what is damaged."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiny
from tests.ui.conftest import Browser, step, write_run, write_study
from tests.ui.test_app import HOSTILE, Elements

from nanogrove.record.lock import FolderLock
from nanogrove.studies.reading import read_standing
from nanogrove.studies.report import drawn_sections
from nanogrove.ui.index import Index

SLOW = [2.0, 2.1, 2.2, 2.05, 2.15, 2.25]
FAST = [loss - 0.5 - n / 1000 for n, loss in enumerate(SLOW)]


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Path:
    """A finished study `rates` of two arms and six seeds."""
    return write_study(tmp_path / "runs" / "rates", tiny(), {"slow": SLOW, "fast": FAST}, name="rates")


@pytest.fixture
def client(browser: Browser) -> Any:
    return browser()


def test_a_finished_study_has_the_sections_of_its_report_and_its_runs(client: Any, study: Path) -> None:
    page = client.get("/study?name=rates").text
    standing = read_standing(study)
    assert standing is not None
    assert standing.complete
    sections = drawn_sections(study, standing.findings)
    assert {"verdicts", "differences", "arms", "curves", "statistics"} <= {*sections}
    assert all(html in page for html in sections.values())
    assert "<b>fast</b> is better than slow by 0.5025" in page
    assert '<span class="state finished">finished</span>' in page
    assert "<progress" not in page
    assert '<a href="/run?name=rates%2Fruns%2Ffast%2Fseed-5">runs/fast/seed-5</a>' in page
    assert '<a href="/compare?study=rates">Compare its runs</a>' in page
    assert page.count('name="run" value="rates/runs/') == 12
    assert 'href="/study?name=rates"' in client.get("/").text


def test_a_study_under_way_says_how_far_it_is_and_that_its_verdict_is_not_its_answer(
    client: Any, tiny: Tiny, tmp_path: Path
) -> None:
    study = write_study(tmp_path / "runs" / "half", tiny(), {"slow": SLOW[:4], "fast": FAST[:3]})
    preset = json.loads((study / "runs" / "fast" / "seed-2" / "preset.json").read_text())
    begun = write_run(study / "runs" / "fast" / "seed-3", step(2), steps=4, **preset | {"seed": 3, "name": "fast-3"})
    page = client.get("/study?name=half").text
    assert '<span class="state stopped">stopped</span> 7 of 12 runs are finished</p>' in page
    assert f"<code>nanogrove compare {study}</code> goes on with it" in page
    assert f'max="1" value="{7.5 / 12:.4f}"' in page
    assert "A verdict on a part of its pairs is not yet the answer of the study." in page
    assert page.count("not begun") == 4
    lock = FolderLock(begun)
    page = client.get("/study?name=half").text
    lock.release()
    # a finished run took 60 s, so 4.5 runs take 270 s with one at a time
    assert "7 of 12 runs are finished, 1 are being trained, about 4 min 30 s left</p>" in page
    shutil.rmtree(study / "runs")
    page = client.get("/study?name=half").text
    assert "0 of 12 runs are finished" in page
    assert "no pair of runs is finished yet" in page.lower()


def test_seeds_are_added_as_the_study_adds_them(tiny: Tiny, tmp_path: Path) -> None:
    same = [2.0, 2.1, 2.2, 2.05, 2.15, 2.25, 2.0, 2.3]
    mixed = [loss + (0.1 if n % 2 else -0.1) for n, loss in enumerate(same)]
    study = write_study(tmp_path / "a", tiny(), {"slow": same, "fast": mixed}, until_decided=True, cap=12)
    standing = read_standing(study)
    assert standing is not None
    assert (standing.findings.seeds, len(standing.runs), standing.finished, standing.complete) == (10, 20, 16, False)
    clear = write_study(tmp_path / "b", tiny(), {"slow": same, "fast": [0.1] * 8}, until_decided=True, cap=12, seeds=8)
    standing = read_standing(clear)
    assert standing is not None
    assert (standing.findings.seeds, standing.complete) == (8, True)


def test_a_study_that_is_not_planned_says_so(client: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "new").mkdir()
    (tmp_path / "runs" / "new" / "study.json").write_text('{"arms": []}')
    assert "It is not planned yet" in client.get("/study?name=new").text


def test_notes_of_a_study_are_kept_in_its_folder(client: Any, study: Path) -> None:
    empty = Index(study.parent).study("rates")[1].notes.digest()
    answer = client.post("/study/notes?name=rates", data={"tags": "wide", "note": "odd", "seen": empty})
    assert (answer.status_code, answer.url.path) == (200, "/study")
    assert json.loads((study / "notes.json").read_text()) == {"tags": ["wide"], "note": "odd"}
    assert '<bdi class="tag">wide</bdi> <bdi>odd</bdi>' in client.get("/").text
    lost = client.post("/study/notes?name=rates", data={"tags": "other", "note": "typed", "seen": empty})
    assert lost.status_code == 409
    assert "changed elsewhere meanwhile" in lost.text
    assert "typed</textarea>" in lost.text


def broken_plan(study: Path) -> None:
    (study / "plan.json").write_text("{")


def other_arms(study: Path) -> None:
    plan = json.loads((study / "plan.json").read_text())
    plan["arms"][0]["arm"] = "../../etc"
    (study / "plan.json").write_text(json.dumps(plan))


def broken_results(study: Path) -> None:
    (study / "results.jsonl").write_text("nonsense\n")


def linked_runs(study: Path) -> None:
    (study / "runs").rename(study.parent.parent / "elsewhere")
    (study / "runs").symlink_to(study.parent.parent / "elsewhere")


def other_run(study: Path) -> None:
    (study / "runs" / "fast" / "seed-0" / "preset.json").write_text("{}")


def broken_record(study: Path) -> None:
    record = study / "runs" / "fast" / "seed-0" / "events.jsonl"
    *_, last = record.read_text().splitlines(keepends=True)
    record.write_text(f"nonsense\n{last}")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (broken_plan, "plan.json: cannot be read"),
        (other_arms, "plan.json: damaged, "),
        (broken_results, "results.jsonl: line 1 is not a result"),
        (linked_runs, "is a link"),
        (other_run, "seed-0"),
        (broken_record, "events.jsonl"),
    ],
)
def test_a_damaged_study_is_said_on_its_page_and_the_list_is_whole(
    client: Any, study: Path, damage: Any, problem: str
) -> None:
    write_run(study.parent / "good")
    damage(study)
    page = client.get("/study?name=rates")
    assert page.status_code == 200
    assert 'role="alert"' in page.text
    assert problem in page.text.partition('role="alert"')[2].partition("</p>")[0]
    assert "Tags and notes" in page.text
    assert "run?name=good" in client.get("/").text


@pytest.mark.parametrize("name", ["", "../outside", "/etc", "rates/../rates", "rates/runs", ".", "x" * 5000])
def test_no_other_folder_is_a_study(client: Any, study: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(study, tmp_path / "outside")
    assert client.get("/study", params={"name": name}).status_code == 404
    assert client.post("/study/notes", params={"name": name}, data={"seen": "x"}).status_code == 404
    assert not (tmp_path / "outside" / "notes.json").exists()


def test_hostile_text_in_a_study_stays_text(client: Any, study: Path) -> None:
    known = {tag for tag, _ in Elements(client.get("/study?name=rates").text).seen} | {
        "progress",
        "code",
        "li",
        "ul",
        "caption",
    }
    known |= {tag for tag, _ in Elements(client.get("/").text + client.get("/compare?study=rates").text).seen}
    plan, rng = (study / "plan.json").read_text(), random.Random(1)
    for _ in range(15):
        text = rng.choice(HOSTILE[:-1])
        changed = json.loads(plan)
        changed["machine"] = {text: {text: text}}
        changed["study"]["overrides"] = [f"name={text}"]
        for arm in changed["arms"]:
            arm["overrides"] = rng.choice([[], [text]])
        if rng.random() < 0.3:
            changed["study"]["arms"][0]["name"] = text
        (study / "plan.json").write_text(json.dumps(changed))
        (study / "notes.json").write_text(json.dumps({"tags": [text], "note": text}))
        pages = [client.get(address) for address in ("/study?name=rates", "/", "/compare?study=rates")]
        assert [page.status_code for page in pages] == [200] * 3
        elements = Elements("".join(page.text for page in pages)).seen
        assert {tag for tag, _ in elements} <= known
        assert not {each for _, names in elements for each in names if each.startswith("on")}
