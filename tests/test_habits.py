"""What stands in two places agrees: versions of Python, torch and nanogrove, the changelog, the package's folders."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
RELEASE = (ROOT / "docs" / "release.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


JOBS = read_yaml(".github/workflows/tests.yml")["jobs"]
MATRIX: dict[str, list[str]] = JOBS["versions"]["strategy"]["matrix"]


def next_minor(version: str) -> str:
    major, minor = version.split(".")
    return f"{major}.{int(minor) + 1}"


def previous_minor(version: str) -> str:
    major, minor = version.split(".")
    return f"{major}.{int(minor) - 1}"


def test_the_workflow_tries_every_torch_that_is_admitted() -> None:
    (torch,) = (Requirement(text) for text in PROJECT["dependencies"] if Requirement(text).name == "torch")
    versions = MATRIX["torch"]
    assert versions == [next_minor(previous_minor(version)) for version in versions]
    assert all(torch.specifier.contains(version) for version in versions)
    assert not torch.specifier.contains(previous_minor(versions[0]))
    assert not torch.specifier.contains(next_minor(versions[-1]))


def test_the_workflow_begins_with_the_oldest_python() -> None:
    admitted, versions = SpecifierSet(PROJECT["requires-python"]), MATRIX["python"]
    assert all(admitted.contains(version) for version in versions)
    assert not admitted.contains(previous_minor(versions[0]))
    assert versions[1:] == [next_minor(version) for version in versions[:-1]]


def test_the_workflow_calls_what_a_contributor_calls() -> None:
    commands = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    assert commands[0] == ".ci/run"
    for line in [*commands[1:], *(ROOT / ".ci" / "run").read_text("utf-8").splitlines()]:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", MAKEFILE, re.MULTILINE), line


def test_the_release_page_says_for_each_pair_of_versions_whether_it_was_tried() -> None:
    for python in MATRIX["python"]:
        (row,) = re.findall(rf"^\| {re.escape(python)} \|(.*)\|$", RELEASE, re.MULTILINE)
        assert len(row.split("|")) == len(MATRIX["torch"])
        assert all(re.match(r" (suite|part|untried)", cell) for cell in row.split("|")), row
    heads = re.search(r"^\| Python \|(.*)\|$", RELEASE, re.MULTILINE)
    assert heads
    assert [cell.strip().removeprefix("torch ") for cell in heads[1].split("|")] == MATRIX["torch"]


def test_the_citation_is_of_this_version() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert PROJECT["version"].endswith(".dev0") != ("date-released" in citation)


def test_the_changelog_is_dated_newest_first() -> None:
    heads = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert heads[0] == "Unreleased"
    released = [re.fullmatch(r"\d+\.\d+\.\d+ - (\d{4}-\d\d-\d\d)", head) for head in heads[1:]]
    dates = [match[1] for match in released if match]
    assert len(dates) == len(heads) - 1 >= 1
    assert dates == sorted(dates, reverse=True)
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= {"Added", "Changed", "Deprecated", "Fixed"}


def test_hooks_fetch_nothing() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].partition(" ")[0] in re.sub(r"\$\(BIN\)", ".venv/bin", MAKEFILE)


def test_every_folder_of_the_package_is_one_that_git_and_a_wheel_know() -> None:
    """A folder without an `__init__.py` works from a clone, and is missing in the wheel."""
    source = ROOT / "src"
    folders = {path.parent for path in source.rglob("*.py")}
    missing = sorted(str(folder.relative_to(source)) for folder in folders if not (folder / "__init__.py").exists())
    assert not missing
    if not (ROOT / ".git").exists():
        pytest.skip("no clone: what git ignores cannot be asked")
    paths = [str(path) for path in source.rglob("*.py")]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout == ""
