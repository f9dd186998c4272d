"""A run begins from the page: the form is the schema's, a wrong value loses nothing, figures come before the start."""

import json
import re
import resource
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.ui.conftest import Browser, write_run

from nanogrove.config.catalog import GROUPS, packaged_text, parse_preset
from nanogrove.config.overrides import resolve
from nanogrove.errors import RunError
from nanogrove.ui import dry_run, processes
from nanogrove.ui.fields import settings_of, texts_of, typed_overrides

FIGURES = "parameters  2,555,904\ntime  <b>4 minutes</b>"


class Fields(HTMLParser):
    """The fields of a form: their attributes, and the text that a browser would send."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.attributes, self.sent = dict[str, dict[str, str | None]](), dict[str, str]()
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("name")
        if tag in ("input", "select", "textarea") and name:
            self.attributes[name], self.sent[name] = given, given.get("value") or ""
            self._open = name
        elif tag == "option" and "selected" in given:
            self.sent[self._open] = "\0"

    def handle_data(self, data: str) -> None:
        if self._open and self.sent[self._open] == "\0":
            self.sent[self._open] = data
        elif self._open and self.lasttag == "textarea":
            self.sent[self._open] = data.removeprefix("\n")
            self._open = ""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What runs in place of Python: it keeps its arguments and its input, and prints figures."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\ncat > {tmp_path}/input\nprintf "{FIGURES}"\n')
    path.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(path))
    return path


def preset_of(name: str) -> dict[str, object]:
    return parse_preset(packaged_text(name) or "", name)


def test_all_presets_are_offered_and_runs(browser: Browser, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "<b>")
    page = browser().get("/new").text
    assert all(f'href="/new?preset={name}"' in page for group in GROUPS for name in group.names)
    assert '<option value="&lt;b&gt;">&lt;b&gt;</option>' in page


@pytest.mark.parametrize("name", [name for group in GROUPS for name in group.names])
def test_a_form_sent_as_it_is_changes_nothing(name: str) -> None:
    """What a browser sends for an untouched form holds no override, whatever the preset."""
    from nanogrove.ui.new_run import Answer, Beginning, form_page

    preset = resolve(preset_of(name))
    settings = settings_of(preset)
    texts = texts_of(preset, settings)
    fields = Fields(form_page(Beginning("preset", name, preset_of(name)), Answer("a")))
    assert {*texts} <= {*fields.sent}
    assert typed_overrides(fields.sent, texts, settings) == {}


def test_fields_have_the_limits_and_defaults_of_the_schema(browser: Browser) -> None:
    page = browser().get("/new?preset=quickstart").text
    fields = Fields(page).attributes
    steps, rate, family = fields["train.steps"], fields["optimizer.lr"], fields["model.family"]
    assert (steps["type"], steps["min"], steps["step"], steps["value"]) == ("number", "1", "1", "800")
    assert (rate["type"], rate["min"], rate["step"]) == ("number", "0", "any")
    assert "type" not in family
    assert "sequences per step, all micro-batches together: a whole number, ≥ 1; default 16" in page
    assert "method.population" not in fields  # of another method
    assert not [key for key in fields if "[]" in key]


def test_a_wrong_value_has_the_error_of_the_command_line_beside_it_and_loses_nothing(
    browser: Browser, started: Path
) -> None:
    typed = {"train.steps": "0", "model.n_layer": "x", "seed": "5", "sample.prompts": '["a\\nb"]', "folder": "../b"}
    answer = browser().post("/new?preset=quickstart", data=typed)
    assert answer.status_code == 422
    fields = Fields(answer.text).sent
    assert {key: fields[key] for key in typed} == typed
    for key, problem in (
        ("train.steps", "train.steps=0: must be 1 or more, and &#x27;0&#x27; was given"),
        ("model.n_layer", "model.n_layer=x: must be a whole number, and &#x27;x&#x27; was given"),
    ):
        row = re.search(rf'<label for="{re.escape(key)}">.*?</div>', answer.text)
        assert row is not None
        assert f'<p class="alert" role="alert">{problem}' in row[0]
    assert "is not plain" in answer.text
    assert "3 values are wrong" in answer.text
    assert not started.with_name("arguments").exists()


def test_figures_come_before_the_start_and_anew_where_settings_changed(
    browser: Browser, started: Path, tmp_path: Path
) -> None:
    client, form = browser(), {"train.steps": "7", "folder": "mine", "do": "start"}
    page = client.post("/new?preset=quickstart", data=form).text
    assert "time  &lt;b&gt;4 minutes&lt;/b&gt;</pre>" in page
    assert not (tmp_path / "runs" / "mine").exists()
    asked = json.loads((tmp_path / "input").read_text())
    assert asked == resolve(preset_of("quickstart"), ["train.steps=7"]).model_dump(mode="json")
    form["seen"] = Fields(page).sent["seen"]
    page = client.post("/new?preset=quickstart", data=form | {"train.steps": "8"}).text
    assert '<section id="figures">' in page
    assert not (tmp_path / "runs" / "mine").exists()
    answer = client.post("/new?preset=quickstart", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/run?name=mine")
    assert json.loads((tmp_path / "runs" / "mine" / "preset.json").read_text()) == asked
    assert "New run from these settings" in client.get("/run?name=mine").text
    again = client.post("/new?preset=quickstart", data=form)
    assert again.status_code == 422
    assert "mine exists already" in again.text
    for line in (tmp_path / "arguments").read_text().splitlines():
        assert "--allow-code" not in line


def test_settings_that_do_not_fit_each_other_are_said_beside_one_that_was_changed(browser: Browser) -> None:
    page = browser().post("/new?preset=quickstart", data={"model.n_head": "5", "folder": "a"}).text
    row = re.search(r'<label for="model.n_head">.*?</div>', page)
    assert row is not None
    assert "model: n_embd 192 is not divisible by n_head 5</p>" in row[0]


def test_what_a_dry_run_refuses_is_said(browser: Browser, started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, form = browser(), {"folder": "a", "data.sources": "nowhere.txt"}
    started.write_text('#!/bin/sh\ncat > /dev/null\necho "wait" >&2\necho "error: data.sources: <i>none" >&2\nexit 2\n')
    answer = client.post("/new?preset=quickstart", data=form)
    assert answer.status_code == 422
    assert 'value="nowhere.txt"' in answer.text
    assert "data.sources: &lt;i&gt;none</p></div>" in answer.text
    monkeypatch.setattr(dry_run, "LONGEST_SECONDS", 0.1)
    started.write_text("#!/bin/sh\nexec sleep 60\n")
    assert "a dry run takes more than 0 seconds here" in client.post("/new?preset=quickstart", data=form).text


def test_nothing_else_is_begun_from(browser: Browser, tmp_path: Path, started: Path) -> None:
    write_run(tmp_path / "outside")
    preset = tmp_path / "runs" / "p.json"
    preset.write_text(packaged_text("quickstart") or "")
    client = browser()
    for words in ({"run": "../outside"}, {"preset": str(preset)}, {"preset": "../quickstart"}, {"preset": ""}):
        assert client.get("/new", params=words).status_code in (404, 409)
        assert client.post("/new", params=words, data={"folder": "a"}).status_code in (404, 409)
    for name in ("", ".", "..", "/etc/a", "a/b", "-a", "a\0", "x" * 101, "a\nb"):
        assert "is not plain" in client.post("/new?preset=quickstart", data={"folder": name}).text
    assert browser(known=False).post("/new?preset=quickstart", data={"folder": "a"}).status_code == 403
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["p.json"]


def test_a_run_begins_from_the_settings_of_another(browser: Browser, tmp_path: Path, started: Path) -> None:
    settings = resolve(preset_of("quickstart"), ["train.steps=9"]).model_dump(mode="json")
    write_run(tmp_path / "runs" / "deep" / "first", **settings)
    page = browser().get("/new", params={"run": "deep/first"}).text
    fields = Fields(page).sent
    assert (fields["train.steps"], fields["folder"]) == ("9", "first")
    assert 'action="/new?run=deep%2Ffirst"' in page


def test_a_link_in_the_place_of_the_new_folder_is_not_followed(browser: Browser, tmp_path: Path, started: Path) -> None:
    (tmp_path / "runs" / "a").symlink_to(tmp_path / "elsewhere")
    assert "a exists already" in browser().post("/new?preset=quickstart", data={"folder": "a"}).text
    preset = resolve(preset_of("quickstart"))
    with pytest.raises(RunError, match="a exists already"):  # put there after the name was checked
        processes.Processes().start(tmp_path / "runs" / "a", preset)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("size", [0, 1000])
def test_a_full_disk_is_said_and_nothing_is_left(browser: Browser, tmp_path: Path, started: Path, size: int) -> None:
    client, form = browser(), {"folder": "mine", "do": "start"}
    page = client.post("/new?preset=quickstart", data=form).text
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        answer = client.post("/new?preset=quickstart", data=form | {"seen": Fields(page).sent["seen"]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert answer.status_code == 409
    assert "the preset cannot be written (File too large); free some space</p>" in answer.text
    assert not list((tmp_path / "runs").iterdir())
