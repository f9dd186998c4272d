"""A regret study: its settings, what it trains, goes on with and measures, its page, and what it refuses."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
from tests.studies.conftest import TRAINED, train_in_process

from nanogrove.cli.main import main
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rewarded_files import PreferencesConfig
from nanogrove.errors import StudyError
from nanogrove.evaluate.regret import divergence, optimum, text_rewards, texts
from nanogrove.evaluate.reward import terms_reward
from nanogrove.studies.regret import study as module
from nanogrove.studies.regret import worlds
from nanogrove.studies.regret.entrants import ENTRANTS, best_threshold
from nanogrove.studies.regret.findings import Findings, lines
from nanogrove.studies.regret.measured import best_of_points, frontier
from nanogrove.studies.regret.settings import Name, RegretSettings, checked, read_settings
from nanogrove.studies.regret.study import draw
from nanogrove.studies.regret.worlds import World, rewarded_data, write_data, write_grammar

TINY = {"v": 4, "L": 1, "seeds": 1, "rates": [0.01], "steps": 2, "texts": 8, "base_steps": 2, "n_layer": 1, "n_embd": 8}


def tiny(**settings: object) -> RegretSettings:
    return checked({**TINY, "methods": ["dpo", "rloo"], **settings})


@pytest.fixture(autouse=True)
def trained() -> Iterator[list[str]]:
    """The labels of what is trained, in this process, from bases that see few texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_here", train_in_process)
        patch.setattr(worlds, "BASE_TEXTS", 64)
        TRAINED.clear()
        yield TRAINED


def finish(settings: RegretSettings, out: Path) -> Findings:
    updates = draw(settings, out)
    while True:
        try:
            next(updates)
        except StopIteration as end:
            findings: Findings = end.value
            return findings


@pytest.fixture(scope="module")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tiny()`, finished; not to be changed."""
    folder = tmp_path_factory.mktemp("regret") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_here", train_in_process)
        patch.setattr(worlds, "BASE_TEXTS", 64)
        finish(tiny(), folder)
    return folder


@pytest.fixture
def finished(finished_study: Path, tmp_path: Path) -> Path:
    """A copy of it, in which runs name the folder where they were trained."""
    return Path(shutil.copytree(finished_study, tmp_path / "study"))


def test_methods_are_measured_after_1_2_4_steps_against_the_optimum(finished_study: Path) -> None:
    findings = Findings.model_validate_json((finished_study / "results.json").read_bytes())
    seed = findings.seeds[0]
    assert seed.optimum.regret == 0
    assert seed.optimum.reward - 0.25 * seed.optimum.kl == pytest.approx(seed.value)
    assert 0.25 * seed.base.regret == pytest.approx(seed.value - seed.base.reward)
    for method in findings.methods:
        assert [each.texts for each in method.points[0]] == [8, 16]
        for each in method.points[0]:
            assert 0 < each.kl < 0.1
            assert 0.25 * each.regret == pytest.approx(seed.value - each.reward + 0.25 * each.kl)
    assert next(lines(findings)).startswith(f"base: regret {seed.base.regret:.3f} nats")


def test_the_page_holds_all_and_needs_no_network(finished_study: Path) -> None:
    page = (finished_study / "report.html").read_text()
    assert "http:" not in page.partition('id="plotly"')[0]
    for words in ("Regret over scored texts", "Regret over KL from the base", "RLOO", "DPO", "steered", "best of 4"):
        assert words in page


def test_a_finished_study_is_measured_again_and_more_methods_are_trained(finished: Path, trained: list[str]) -> None:
    before = (finished / "results.json").read_bytes()
    finish(tiny(), finished)
    assert trained == []
    assert (finished / "results.json").read_bytes() == before
    findings = finish(tiny(methods=["rwr", "dpo", "rloo"]), finished)
    assert [label.partition(",")[0] for label in trained] == ["arm rwr", "arm rwr"]
    assert [method.name for method in findings.methods] == ["rwr", "dpo", "rloo"]
    stored = json.loads(before)
    assert [method.points for method in findings.methods[1:]] == [
        Findings.model_validate(stored).methods[number].points for number in (0, 1)
    ]


def test_other_settings_and_other_folders_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"this study began with beta 0\.25, and here it is 0\.5; put that back"):
        finish(tiny(beta=0.5), finished)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").write_text("{}")
    with pytest.raises(StudyError, match="holds a study of `nanogrove compare`; choose another --out"):
        finish(tiny(), tmp_path / "other")


@pytest.mark.parametrize("name", ["regret.json", "results.json", "report.html", "data", "runs"])
def test_a_study_is_not_written_through_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StudyError, match="is a link, and is not written through"):
        finish(tiny(), tmp_path / "study")
    assert not list((tmp_path / "outside").iterdir())


def test_a_hostile_reward_is_text_on_the_page(finished_study: Path, tmp_path: Path) -> None:
    stored = json.loads((finished_study / "results.json").read_text())
    stored["settings"]["reward"]["terms"] = {"</script><b>": 1.0}
    module.write_page(tmp_path / "page.html", Findings.model_validate(stored))
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page
    assert "&lt;/script&gt;&lt;b&gt;" in page


@pytest.fixture
def world(tmp_path: Path) -> World:
    settings = tiny(v=6, beta=0.5, steps=1024)
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(1 + 6 + 36, generator=generator, dtype=torch.float64).log_softmax(0)
    write_grammar(settings, tmp_path)
    return World(settings, tmp_path, 0, reference, text_rewards(terms_reward(settings.reward.terms or {}, False), 6, 2))


def test_offline_data_are_of_the_base_with_pairs_of_bradley_and_terry(world: World) -> None:
    write_data(world)
    listed = [" ".join(map(str, text)) for text in texts(6, 2)]
    rows = [json.loads(line) for line in world.scored_file.read_text().splitlines()]
    assert len(rows) == 8192
    likeliest = int(world.reference.argmax())
    share = sum(row["text"] == listed[likeliest] for row in rows) / len(rows)
    assert share == pytest.approx(math.exp(float(world.reference[likeliest])), abs=0.03)
    reward = dict(zip(listed, world.rewards.tolist(), strict=True))
    assert all(row["reward"] == reward[row["text"]] for row in rows)
    pairs = [json.loads(line) for line in world.pairs_file.read_text().splitlines()]
    gaps = [reward[pair["chosen"]] - reward[pair["rejected"]] for pair in pairs]
    for size in {abs(gap) for gap in gaps}:  # one right and one wrong side of each size
        sides = [gap > 0 for gap in gaps if abs(gap) == size and gap]
        if len(sides) > 500:
            assert sum(sides) / len(sides) == pytest.approx(1 / (1 + math.exp(-size)), abs=0.06)
    corpus = RewardedCorpus(PreferencesConfig(**rewarded_data(world.study, world.pairs_file, "preferences")), 3, 4, 0)
    assert corpus.tokenizer.vocab_size == 7


def test_what_methods_aim_at_is_exact(world: World) -> None:
    star, ideals = world.optimum.log_probs, {name: each.ideal for name, each in ENTRANTS.items()}
    regrets = {name: divergence(ideal(world), star) for name, ideal in ideals.items() if ideal is not None}
    assert regrets["rwr"] == regrets["dpo"] == regrets["rloo"] == 0
    assert 0 < regrets["awr"] < regrets["filter"]
    others = [
        divergence((world.reference + (world.rewards >= least).double().log()).log_softmax(0), star)
        for least in world.rewards.unique().tolist()
    ]
    assert regrets["filter"] == pytest.approx(min(others))
    assert best_threshold(world) in world.rewards.tolist()
    least = list(frontier(world))
    for each in best_of_points(world):  # none lies below the least regret of its KL
        above = [regret for kl, regret in least if kl >= each.kl and kl <= divergence(star, world.reference)]
        assert all(each.regret >= regret - 1e-9 for regret in above[:1])
    assert optimum(world.reference, world.rewards, 0.5).value == world.optimum.value


def test_every_method_has_a_name_and_a_preset() -> None:
    assert tuple(ENTRANTS) == get_args(Name)


@pytest.mark.slow
def test_all_methods_train(tmp_path: Path) -> None:
    findings = finish(tiny(methods=list(ENTRANTS), seeds=2), tmp_path / "all")
    for method in findings.methods:
        assert [len(points) for points in method.points] == [2, 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["steps=100"], "steps 100 is not a power of two; take 64"),
        (["texts=100"], "texts 100 is not a multiple of 8; take 96"),
        (["v=16", "L=3"], r"v 16 and L 3 make over 16\^8 texts, and 1,048,576 can be enumerated; take fewer symbols"),
        (["v=32"], r"v 32 and L 2 make over 32\^4 texts"),
        (["methods=rwr,ppo"], "methods.1 must be 'rloo', 'grpo', .*, and 'ppo' was given"),
        (["methods=rwr,rwr"], "methods: one of them is given twice"),
        (["rates=0"], r"rates\.0 must be above 0, and '0' was given"),
        (["seed=4"], "unknown key seed; did you mean seeds?"),
        (["seeds"], "'seeds' is not KEY=VALUE, as in seeds=4"),
        (["beta=0"], "beta must be above 0, and 0 was given"),
        (['reward={"function": "os:getcwd"}'], "reward.function is Python code, which a regret study does not run"),
        (['reward={"pattern": "("}'], "is not a regular expression"),
    ],
)
def test_wrong_settings_are_refused_in_a_line(overrides: Sequence[str], message: str) -> None:
    with pytest.raises(StudyError, match=message) as error:
        read_settings(overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("v", "depth"), [(1000, 1), (31, 2)])
def test_texts_of_settings_that_are_taken_can_be_enumerated(v: int, depth: int) -> None:
    settings = read_settings([f"v={v}", f"L={depth}"])
    assert next(texts(settings.v, settings.length)) == ()


def test_settings_of_a_command_line_are_json_or_text() -> None:
    settings = read_settings(["methods=rwr, dpo", "rates=[0.1,0.2]", "beta=.5", 'reward={"length": 4}'])
    assert settings.methods == ["rwr", "dpo"]
    assert settings.rates == [0.1, 0.2]
    assert (settings.beta, settings.reward.length) == (0.5, 4)


def test_the_verb_says_what_a_study_came_to(
    finished_study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}={json.dumps(value)}" for key, value in {**TINY, "methods": ["dpo", "rloo"]}.items()]
    monkeypatch.setattr("sys.argv", ["nanogrove", "regret", *words, "--out", str(finished_study)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    out = capsys.readouterr().out
    assert "RLOO: regret " in out
    assert "report.html" in out
