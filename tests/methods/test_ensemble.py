"""An ensemble: members, chains and students; exact resume, what `load` gives, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.errors import NanogroveError
from nanogrove.methods.contract import Trained
from nanogrove.methods.ensemble import Config, batches_of, check, check_kept, from_teacher, num_steps, phases
from nanogrove.model.config import ModelConfig
from nanogrove.model.ensemble import Ensemble
from nanogrove.model.gpt import GPT
from nanogrove.record.events import read_events
from nanogrove.reports.report import write_report
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.serve.engine import opened
from nanogrove.train.checkpoint import load_checkpoint, load_latest

SMALL = {"steps": 6, "batch_size": 4}


@pytest.fixture(scope="module")
def preset(tiny: Any) -> Any:
    """Makes the preset of two members and a student."""

    def make(train: dict[str, Any] | None = None, **method: Any) -> dict[str, Any]:
        settings = {"name": "ensemble", "members": 2, "distill_steps": 4, **method}
        chosen: dict[str, Any] = tiny(
            method=settings,
            train={**SMALL, **(train or {})},
            optimizer={"lr": 0.01},
            evaluate={"every": 3},
            sample={"every": 5, "tokens": 4},
            save={"every": 2},
        )
        return chosen

    return make


@pytest.fixture(scope="module")
def finished(preset: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ensemble") / "run"
    for _ in train(resolve(preset()), out):
        pass
    return out


@pytest.mark.parametrize("chain", [False, True], ids=["together", "chain"])
def test_a_run_is_resumed_bit_for_bit(preset: Any, tmp_path: Path, resumes_exactly: Any, chain: bool) -> None:
    chosen = preset({"steps": 3 if chain else 6, "average": {"half_life": 2}}, chain=chain)
    record = resumes_exactly(chosen, tmp_path, [("step", n) for n in (1, 3, 5, 7, 9)])
    steps = [line for line in record if line["kind"] == "step"]
    assert len(steps) == 10
    assert [line["name"] for line in record if line["kind"] == "phase"] == (
        ["member 1", "member 2", "student"] if chain else ["members", "student"]
    )
    assert [line["step"] for line in record if line["kind"] == "student"] == [9, 10]


def test_a_member_is_the_single_model_of_its_seed(preset: Any, tiny: Any, tmp_path: Path) -> None:
    """On one CPU in float32, bit for bit; the other member has weights and batches of its own."""
    chosen = preset(distill_steps=0)
    both = [event for event in train(resolve(chosen), tmp_path / "both") if event.kind == "step"]
    chosen["method"] = {"name": "pretrain"}
    alone = [event for event in train(resolve(chosen), tmp_path / "alone") if event.kind == "step"]
    assert [event.values["loss"][0] for event in both] == [event.values["loss"] for event in alone]
    assert [event.values["loss"][1] for event in both] != [event.values["loss"] for event in alone]


def test_members_read_passes_of_their_own_over_the_same_text(preset: Any) -> None:
    setup = build(resolve(preset()))
    corpus, windows = setup.corpus, setup.corpus.windows_per_epoch
    assert windows is not None
    passes = []
    for member in range(3):
        batch = batches_of(corpus, Config(), member)
        rows = torch.cat([batch(step).tokens for step in range(windows // 4)])
        passes.append(sorted(map(tuple, rows.tolist())))
        assert len(set(passes[-1])) > 0.9 * len(passes[-1]), "one pass shows each window once"
    assert passes[0] != passes[1] != passes[2]
    shared = batches_of(corpus, Config(own_batches=False), 2)
    assert torch.equal(shared(5).tokens, corpus.batch(5).tokens)


def test_a_student_learns_from_data_and_teacher_in_the_shares_asked_for() -> None:
    config = ModelConfig(vocab_size=7, block_size=6, n_layer=1, n_head=2, n_embd=8, init_scale=9.0)
    members, student = GPT(config, 2).initialize(0, 1).double(), GPT(config).initialize(2).double()
    tokens = torch.randint(0, 7, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    batch = Batch.uniform(tokens[:, :-1], tokens[:, 1:], mask)
    taught, total, count = members(batch.tokens.expand(2, 3, 6)).softmax(-1).mean(0), 0.0, 0
    taught, log_probs = taught.detach(), student(batch.tokens).log_softmax(-1).detach()
    for row, at in mask.nonzero().tolist():
        target = int(batch.targets[row, at])
        total -= 0.3 * float(log_probs[row, at, target])
        total -= 0.7 * sum(float(taught[row, at, token] * log_probs[row, at, token]) for token in range(7))
        count += 1
    loss = from_teacher(Ensemble(members), 0.3)(student, batch)
    assert loss.total.item() == pytest.approx(total / count, abs=1e-9)
    loss.total.backward()
    assert all(parameter.grad is None for parameter in members.parameters()), "the teacher stays as it is"


def test_load_gives_the_ensemble_and_its_student_is_an_ordinary_model(finished: Path, tmp_path: Path) -> None:
    lm, student = nanogrove.load(finished), nanogrove.load(finished / "checkpoints" / "student")
    assert lm.model.population == 2
    assert student.model.population is None
    assert lm.generate("The", tokens=6, seed=1) == lm.generate("The", tokens=6, seed=1)
    assert lm.generate("The", tokens=6, temperature=0.0) == lm.generate(["The", "Th"], tokens=6, temperature=0.0)[0]
    assert len(lm.continuations(["The"], 5)[0].probabilities) <= 5
    exported = nanogrove.export(finished / "checkpoints" / "student", "transformers", tmp_path / "exported")
    assert (Path(exported) / "config.json").exists()
    score, end = nanogrove.score(finished), read_events(finished / "events.jsonl")[-1].values
    for name in ("loss", "member_loss", "student_loss", "mean_logits_loss", "losses_by_count"):
        assert score[name] == pytest.approx(end[name])
    assert score["loss"] == score["losses_by_count"][-1] < score["member_loss"]
    assert "Ensemble" in write_report(finished).read_text("utf-8")


def test_where_one_model_is_needed_an_ensemble_is_refused_in_one_line(finished: Path, tiny: Any) -> None:
    lm = nanogrove.load(finished)
    asked: list[Any] = [
        lambda: nanogrove.export(finished, "transformers", finished.parent / "x"),
        lambda: nanogrove.score(finished, calibrate=True),
        lambda: lm.generate("The", tokens=2, speculative=True),
        lambda: lm.generate("The", tokens=2, precision="bfloat16"),
        lambda: nanogrove.report(finished, with_model="int8"),
        lambda: build(resolve(tiny(train={"init": str(finished)}))),
        lambda: opened(lm, 1, 0).__enter__(),
    ]
    for ask in asked:
        with pytest.raises(NanogroveError, match="ensemble") as error:
            ask()
        assert "\n" not in str(error.value)


def test_where_one_model_is_needed_the_student_is_named_if_there_is_one(finished: Path, tmp_path: Path) -> None:
    import shutil

    student = finished / "checkpoints" / "student"
    with pytest.raises(NanogroveError, match=f"give {student}, the model"):
        nanogrove.export(finished, "transformers", tmp_path / "x")
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "student")
    with pytest.raises(NanogroveError, match=r"it has no student: train one with method\.distill_steps"):
        nanogrove.export(tmp_path / "run", "transformers", tmp_path / "x")


@pytest.mark.parametrize("further", [{}, {"init": "runs/mine"}], ids=["new weights", "given weights"])
def test_adapters_of_members_are_refused(preset: Any, further: dict[str, Any]) -> None:
    with pytest.raises(NanogroveError, match=r"method ensemble trains all weights; leave train\.lora out"):
        resolve(preset({"lora": {"rank": 2}, **further}))


def test_steps_and_phases_are_counted() -> None:
    together, chain = Config(members=3, distill_steps=5), Config(members=3, distill_steps=5, chain=True)
    assert (num_steps(together, 10), num_steps(chain, 10)) == (15, 35)
    assert [span[:3] for span in phases(together, 15)] == [("members", 0, 10), ("student", 10, 15)]
    assert [span[1:3] for span in phases(chain, 35)] == [(0, 10), (10, 20), (20, 30), (30, 35)]


def test_text_that_streams_needs_shared_batches() -> None:
    class Streaming:
        def describe(self) -> dict[str, Any]:
            return {"streams": True}

    corpus: Any = Streaming()
    with pytest.raises(NanogroveError, match="set method\\.own_batches=false"):
        check(Config(), corpus, ModelConfig(), False)
    check(Config(own_batches=False), corpus, ModelConfig(), False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.clear(), "it keeps nothing of a single model"),
        (lambda tensors: tensors.update({"weights/x": torch.zeros(2)}), "weight x is"),
        (lambda tensors: tensors.update({"moments/x/exp_avg": torch.zeros(2)}), "x/exp_avg is of no parameter"),
        (lambda tensors: tensors.update({"other/x": torch.zeros(2)}), "it keeps moments, other, weights"),
    ],
)
def test_what_a_stranger_wrote_of_a_student_is_refused(finished: Path, preset: Any, change: Any, message: str) -> None:
    checkpoint, _ = load_latest(finished / "checkpoints")
    assert checkpoint is not None
    setup = build(resolve(preset()))
    state = setup.new_state()
    checkpoint.restore(state)
    config: Any = setup.preset.method
    check_kept(state, setup.corpus, setup.plan, config)
    change(state.method_tensors)
    with pytest.raises((NanogroveError, ValueError), match=message):
        check_kept(state, setup.corpus, setup.plan, config)


def test_an_ensemble_of_more_members_than_there_are_is_damaged(finished: Path, tmp_path: Path) -> None:
    import json
    import shutil

    from nanogrove.train.checkpoint import checksum_of

    folder = shutil.copytree(finished / "checkpoints" / "best", tmp_path / "best")
    state = json.loads((folder / "state.json").read_text())
    for count, message in ((3, "it is of an ensemble of 3 models, and model.safetensors holds 2"), (-1, "0 or more")):
        state["ensemble"] = count
        state["checksum"] = checksum_of(state)
        (folder / "state.json").write_text(json.dumps(state))
        with pytest.raises(NanogroveError, match=message):
            load_checkpoint(folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert len(weights["embed.weight"]) == 2


def test_a_study_can_ask_a_model_of_its_own_for_the_figures(preset: Any) -> None:
    setup = build(resolve(preset()))
    single = GPT(setup.model_on_data).initialize(0)
    trained = Trained(single, setup.preset.method, 0)
    figures = setup.method.evaluate(trained, setup.corpus, "validation", 200)
    assert figures["loss"] == pytest.approx(figures["member_loss"]) == pytest.approx(figures["mean_logits_loss"])
