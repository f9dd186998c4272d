"""Calibration: the temperature against closed forms and scipy, the figures against loops, the file against harm."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.corpora import make_corpus
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.evaluate import calibration
from nanogrove.evaluate.calibration import (
    BINS,
    TEMPERATURE_RANGE,
    calibration_error,
    equal_mass,
    equal_width,
    fit_temperature,
)
from nanogrove.language_model import LanguageModel, load
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.synthetic.examples import TaskConfig
from nanogrove.train.checkpoint import checksum_of, load_best


def sampled(count: int, vocabulary: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and targets drawn from their own softmax, so that the true temperature is 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, vocabulary, generator=generator)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


# The search.


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.0, 3.0, 10.0])
def test_logits_times_a_factor_have_that_temperature(factor: float) -> None:
    logits, targets = sampled(20_000, 30)
    temperature = fit_temperature(lambda: [(logits, targets)])
    assert temperature == pytest.approx(1.0, rel=0.02), "drawn from its own softmax"
    assert fit_temperature(lambda: [(factor * logits, targets)]) == pytest.approx(factor * temperature, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_where_scipy_finds_the_least_loss(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * seed + 1) * torch.randn(500, 40, generator=generator)
    targets = torch.randint(40, (500,), generator=generator)
    hit = torch.rand(500, generator=generator) < 0.5
    targets[hit] = logits[hit].argmax(-1)
    z, y = logits.double().numpy(), targets.numpy()

    def loss(b: float) -> float:
        return float(np.mean(logsumexp(b * z, axis=1) - b * z[np.arange(500), y]))

    best = minimize_scalar(
        loss, bounds=(1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]), method="bounded", options={"xatol": 1e-10}
    )
    passes = []

    def pieces() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        passes.append(1)
        return zip(logits.split(70), targets.split(70), strict=True)

    assert fit_temperature(pieces) == pytest.approx(1 / best.x, rel=1e-5)
    assert len(passes) < 20


def test_a_fit_without_a_minimum_ends_where_the_search_does() -> None:
    logits, _ = sampled(50, 5)
    assert fit_temperature(lambda: [(logits, logits.argmax(-1))]) == TEMPERATURE_RANGE[0]
    assert fit_temperature(lambda: [(logits, logits.argmin(-1))]) == TEMPERATURE_RANGE[1]


def test_one_error_among_sure_predictions_is_enough_for_a_minimum() -> None:
    logits = torch.tensor([[9.0, 0.0]]).repeat(10_000, 1)
    targets = torch.zeros(10_000, dtype=torch.int64)
    targets[0] = 1
    assert fit_temperature(lambda: [(logits, targets)]) == pytest.approx(9 / math.log(9999), rel=1e-6)


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        fit_temperature(lambda: [(torch.tensor([[math.nan, 1.0]]), torch.tensor([0]))])


# The figures.


def test_outcomes_computed_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).log()
    expected = [[-math.log(0.7), 0.7, 1.0, 0.14], [-math.log(0.2), 0.7, 0.0, 1.14]]
    assert calibration.outcomes(logits, torch.tensor([0, 1]), 1.0).tolist() == [pytest.approx(row) for row in expected]
    halved = calibration.outcomes(logits[:1], torch.tensor([0]), 0.5)[0].tolist()
    assert halved[1] == pytest.approx(0.49 / 0.54)


def test_an_error_computed_by_hand() -> None:
    confidence, correct = torch.tensor([0.9, 0.3, 0.9, 0.9]).double(), torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    table = calibration.reliability(confidence, correct, equal_width(confidence))
    assert [(n, k) for n, k in enumerate(table["count"]) if k] == [(4, 1), (13, 3)]
    assert table["accuracy"][13] == pytest.approx(2 / 3)
    assert table["confidence"][0] is None
    assert calibration_error(table) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.7)
    split = calibration.reliability(confidence, correct, equal_mass(confidence))
    assert calibration_error(split) == pytest.approx((0.7 + 0.1 + 0.1 + 0.9) / 4), "each stands alone"


def test_borders_belong_to_the_bin_below() -> None:
    confidence = torch.tensor([1e-9, 1 / 15, 1 / 15 + 1e-9, 8 / 15, 1.0], dtype=torch.float64)
    assert equal_width(confidence).tolist() == [0, 0, 1, 7, 14]


def plain_ece(rows: list[tuple[float, float]], groups: list[list[int]]) -> float:
    gaps = [
        len(group) * abs(sum(rows[i][1] for i in group) / len(group) - sum(rows[i][0] for i in group) / len(group))
        for group in groups
        if group
    ]
    return sum(gaps) / len(rows)


def test_the_figures_are_those_of_plain_loops() -> None:
    logits, targets = sampled(700, 12)
    figures = calibration.summary(calibration.outcomes(logits, targets, 0.6), torch.arange(700))
    rows, nll, brier = [], 0.0, 0.0
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        weights = [math.exp(v / 0.6) for v in z]
        p = [w / sum(weights) for w in weights]
        rows.append((max(p), float(p.index(max(p)) == y)))
        nll -= math.log(p[y]) / 700
        brier += sum((v - (k == y)) ** 2 for k, v in enumerate(p)) / 700
    width: list[list[int]] = [[] for _ in range(BINS)]
    for i, (confidence, _) in enumerate(rows):
        width[math.ceil(confidence * BINS) - 1].append(i)
    order = sorted(range(700), key=lambda i: rows[i][0])
    mass = [part.tolist() for part in np.array_split(order, BINS)]
    assert figures["nll"] == pytest.approx(nll)
    assert figures["brier"] == pytest.approx(brier)
    assert figures["accuracy"] == pytest.approx(sum(hit for _, hit in rows) / 700)
    assert figures["confidence"] == pytest.approx(sum(sure for sure, _ in rows) / 700)
    assert figures["ece_width"] == pytest.approx(plain_ece(rows, width))
    assert figures["bins"]["width"]["count"] == [len(group) for group in width]
    # array_split puts its larger parts first, ours where they fall: the same up to a row at a border
    assert figures["ece_mass"] == pytest.approx(plain_ece(rows, mass), abs=0.01)


@pytest.mark.parametrize("count", [1, 14, 15, 16, 1000, 1007])
def test_bins_of_equal_mass_differ_by_one_at_most(count: int) -> None:
    confidence = torch.rand(count, dtype=torch.float64).mul(20).round().div(20)  # with many ties
    bins = equal_mass(confidence)
    sizes = torch.bincount(bins, minlength=BINS)
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1
    ends = [(confidence[bins == b].min(), confidence[bins == b].max()) for b in range(BINS) if sizes[b]]
    assert all(below[1] <= above[0] for below, above in pairwise(ends))


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.3, 20.0])
def test_no_temperature_changes_an_argmax(temperature: float) -> None:
    logits, targets = sampled(5000, 200)
    logits[:, 1] = logits[:, 0] + 1e-6  # float32 barely tells these apart
    before, after = (calibration.outcomes(logits, targets, t) for t in (1.0, temperature))
    assert torch.equal(before[:, 2], after[:, 2])
    assert torch.equal((logits.double() / temperature).argmax(-1), logits.argmax(-1))


# A model on a corpus.

Tiny = Callable[..., dict[str, Any]]


def learn(model: GPT, corpus: Any, steps: int, rate: float = 1e-2) -> None:
    """Plain training, without a word from nanogrove's own loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        batch = corpus.batch(step)
        loss = (model(batch.tokens, batch.targets) * batch.mask).sum() / batch.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> Any:
    """A corpus of text, and a model that has learned a little of it, with a head of its own."""
    corpus = make_corpus(resolve(tiny()).data, 16, 4, 0)
    config = ModelConfig(
        n_layer=1,
        n_head=2,
        n_embd=16,
        block_size=16,
        vocab_size=corpus.tokenizer.vocab_size,
        tie_embeddings=False,
    )
    model = GPT(config).initialize(0)
    learn(model, corpus, 40)
    return model.eval(), corpus


def flat(model: GPT, corpus: Any, split: str) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """All logits and targets of a split, and the tokens of each sequence."""
    with torch.no_grad():
        batches = [(model(b.tokens)[b.mask], b.targets[b.mask], b.tokens.shape) for b in corpus.eval_batches(split)]
    return (
        torch.cat([logits for logits, _, _ in batches]),
        torch.cat([targets for _, targets, _ in batches]),
        [rows[1] for _, _, rows in batches for _ in range(rows[0])],
    )


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_a_model_whose_logits_are_scaled(small: Any, factor: float) -> None:
    model, corpus = small
    assert model.head is not None
    temperature, tokens = calibration.fit_split(model, corpus, "validation")
    assert tokens == len(flat(model, corpus, "validation")[1])
    assert TEMPERATURE_RANGE[0] < temperature < TEMPERATURE_RANGE[1]
    before = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.mul_(factor)
    scaled, _ = calibration.fit_split(model, corpus, "validation")
    with torch.no_grad():
        model.head.weight.copy_(before)
    assert scaled == pytest.approx(factor * temperature, rel=1e-4)


def test_what_is_measured_is_what_all_logits_say(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, corpus = small
    logits, targets, lengths = flat(model, corpus, "test")
    monkeypatch.setattr(calibration, "LOGITS_PER_CHUNK", 50 * logits.shape[1])  # fifty tokens at once
    measured = calibration.measure(model, corpus, "test", 2.5)
    assert (measured["tokens"], measured["sequences"], measured["event"]) == (len(targets), len(lengths), "share")
    for when, temperature in (("before", 1.0), ("after", 2.5)):
        p = (logits.double() / temperature).softmax(-1)
        sure, best = p.max(-1)
        hit = (best == targets).double()
        figures = measured["figures"]["tokens"][when]
        assert figures["nll"] == pytest.approx(float(-p[torch.arange(len(p)), targets].log().mean()), rel=1e-5)
        assert figures["confidence"] == pytest.approx(float(sure.mean()), rel=1e-5)
        assert figures["accuracy"] == pytest.approx(float(hit.mean()))
        shares = [
            (float(s.mean()), float(h.mean())) for s, h in zip(sure.split(lengths), hit.split(lengths), strict=True)
        ]
        order = sorted(range(len(shares)), key=lambda i: math.ceil(shares[i][0] * BINS))
        groups = [[i for i in order if math.ceil(shares[i][0] * BINS) == k + 1] for k in range(BINS)]
        figures = measured["figures"]["sequences"][when]
        assert figures["ece_width"] == pytest.approx(plain_ece(shares, groups), rel=1e-4)
        assert figures["brier"] == pytest.approx(np.mean([(c - a) ** 2 for c, a in shares]), rel=1e-4)
    before, after = (measured["figures"]["tokens"][when] for when in ("before", "after"))
    assert before["accuracy"] == after["accuracy"], "the likeliest token stays the likeliest"


def test_a_limit_bounds_what_is_kept(small: Any) -> None:
    model, corpus = small
    whole = calibration.fit_split(model, corpus, "train", 10**9)[1]
    assert whole > 10_000
    assert 500 <= calibration.fit_split(model, corpus, "train", 1000)[1] <= 2000


@pytest.mark.slow
def test_an_overfitted_model_is_set_right_on_a_third_split(tiny: Tiny, tmp_path: Path) -> None:
    """Fitted on validation, its ECE on test falls by half or more; the text is a random walk over twelve letters."""
    generator = np.random.default_rng(0)
    follows = generator.dirichlet([0.5] * 12, size=12)
    walk = [0]
    while len(walk) < 6000:
        walk.append(int(generator.choice(12, p=follows[walk[-1]])))
    (tmp_path / "walk.txt").write_text("".join("abcdefghijkl"[state] for state in walk))
    data = {"sources": str(tmp_path / "walk.txt"), "validation": 0.4, "test": 0.4}
    corpus = make_corpus(resolve(tiny(data=data)).data, 32, 16, 0)
    config = ModelConfig(n_layer=2, n_head=2, n_embd=64, block_size=32, vocab_size=corpus.tokenizer.vocab_size)
    model = GPT(config).initialize(0)
    learn(model, corpus, 200, 5e-3)
    calibrated = calibration.calibrate(model, corpus)
    assert calibrated["temperature"] > 1.2
    assert (calibrated["fitted"]["split"], calibrated["measured"]["split"]) == ("validation", "test")
    before, after = calibrated["measured"]["figures"]["tokens"].values()
    assert before["ece_width"] > 0.1
    assert 0.1 < before["ece_debiased_low"] < before["ece_debiased"] < before["ece_debiased_high"]
    assert after["ece_debiased_high"] < before["ece_debiased_low"]
    assert after["ece_width"] < before["ece_width"] / 2
    assert after["ece_mass"] < before["ece_mass"] / 2
    assert after["nll"] < before["nll"]
    assert after["brier"] < before["brier"]
    assert after["accuracy"] == before["accuracy"]


def test_the_greedy_answers_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confidence and truth of whole answers, against a loop that writes them token by token without a cache."""
    corpus = make_corpus(TaskConfig(type="task", task="copy", base=(1, 3), held_out=12), 16, 8, 0)
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=16, vocab_size=corpus.tokenizer.vocab_size))
    model.initialize(0)
    learn(model, corpus, 60)
    kept = []
    monkeypatch.setattr(calibration, "summary", lambda outcomes, unit: kept.append(outcomes) or {})
    measured = calibration.measure(model, corpus, "test", 1.7)
    assert (measured["event"], measured["sequences"]) == ("answer", 36)
    expected: list[list[tuple[float, float, float]]] = [[], []]
    for batch in corpus.eval_batches("test"):
        whole = torch.cat([batch.tokens[:, :1], batch.targets], 1)
        for row, scored in zip(whole, batch.mask, strict=True):
            start = int(scored.nonzero()[0]) + 1
            truth = row[1:][scored].tolist()
            text, sure = row[:start].tolist(), [1.0, 1.0]
            while len(text) < len(row):
                with torch.no_grad():
                    logits = model(torch.tensor([text]))[0, -1].double()
                chosen = int(logits.argmax())
                sure = [s * float((logits / t).softmax(-1)[chosen]) for s, t in zip(sure, (1.0, 1.7), strict=True)]
                text.append(chosen)
                if chosen == corpus.tokenizer.end:
                    break
            with torch.no_grad():
                scores = model(row[None, :-1])[0][scored].double()
            for n, t in enumerate((1.0, 1.7)):
                nll = -sum(float((z / t).log_softmax(-1)[y]) for z, y in zip(scores, truth, strict=True))
                expected[n].append((nll, sure[n], float(text[start:] == truth)))
    hits = [right for _, _, right in expected[0]]
    assert 0 < sum(hits) < len(hits), "some answers are right and some are not, or the test says little"
    for n, outcomes in enumerate(kept[2:]):
        torch.testing.assert_close(outcomes[:, :3], torch.tensor(expected[n]).double(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outcomes[:, 3], (outcomes[:, 1] - outcomes[:, 2]).square())


# The file beside the weights.


@pytest.fixture(scope="module")
def finished(forked: Any, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was not calibrated; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.json").write_text(json.dumps(tiny()))
    assert forked("train", folder / "tiny.json", "--out", folder / "run").code == 0
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be calibrated and spoilt."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def file(run: Path) -> Path:
    """Where the calibration of that run lies, made in advance."""
    nanogrove.score(run, calibrate=True)
    return run / "checkpoints" / "best" / "calibration.json"


def test_from_the_command_line(forked: Any, run: Path) -> None:
    best = run / "checkpoints" / "best"
    weights = (best / "model.safetensors").read_bytes()
    before = forked("generate", run, "The", "--tokens=8")
    evaluation = forked("evaluate", run, "--calibrate")
    assert (evaluation.code, evaluation.err) == (0, "")
    record = json.loads((best / "calibration.json").read_text())
    figures = record["measured"]["figures"]["tokens"]
    assert (
        f"temperature {record['temperature']:.4f}, fitted on {record['fitted']['tokens']:,} validation"
        in evaluation.out
    )
    shown = [line.split()[-2:] for line in evaluation.out.splitlines() if line.startswith("ECE, equal width")]
    assert shown[0] == [f"{figures[when]['ece_width']:.4f}" for when in ("before", "after")]
    assert "the validation split chose this checkpoint too; test chose nothing" in evaluation.out
    for needle in (
        "test tokens",
        "test sequences",
        "NLL",
        "ECE, debiased",
        "  95 %: to",
        "Brier score",
        "0.000 to 0.067",
    ):
        assert needle in evaluation.out
    assert record["model"] == hashlib.sha256(weights).hexdigest()
    assert (best / "model.safetensors").read_bytes() == weights
    assert sorted(path.name for path in best.iterdir() if path.name.startswith(".")) == []
    assert forked("generate", run, "The", "--tokens=8").out == before.out, "only --calibrated changes what is written"
    warmer = forked("generate", run, "The", "--tokens=8", f"--temperature={0.8 * record['temperature']!r}")
    assert forked("generate", run, "The", "--tokens=8", "--calibrated").out == warmer.out
    sure = forked("generate", run, "The", "--tokens=8", "--calibrated", "--confidence")
    assert sure.out.startswith(warmer.out)
    assert "mean log-probability -" in sure.out
    assert forked("train", run, "--resume").code == 0, "a file more in the folder of a checkpoint"
    assert forked("report", run).code == 0
    assert "Tokens: accuracy over confidence" in (run / "report.html").read_text("utf-8")


def test_the_scores_in_python(run: Path) -> None:
    assert (load(run).temperature, load(run).calibrated) == (1.0, False)
    scored = nanogrove.score(run, calibrate=True)
    assert (scored["split"], scored["calibration"]["measured"]["split"]) == ("test", "test")
    assert scored["calibration"]["measured"]["figures"]["tokens"]["before"]["nll"] == pytest.approx(
        scored["loss"], rel=1e-5
    )
    assert (
        load(run).temperature == load(run / "checkpoints" / "best").temperature == scored["calibration"]["temperature"]
    )
    assert not load(run / "checkpoints" / "prev2").calibrated, "another model, another temperature"
    assert "calibration" not in nanogrove.score(run)


def test_a_new_best_model_takes_the_temperature_away(forked: Any, tiny: Tiny, file: Path, run: Path) -> None:
    """The folder of a checkpoint is replaced whole."""
    from nanogrove.data.tokenizer import Tokenizer
    from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
    from nanogrove.train.saving import save_checkpoint
    from nanogrove.train.state import TrainState

    best = load_best(run / "checkpoints")
    model = GPT(best.config).initialize(3)
    tokenizer: Tokenizer = best.tokenizer
    state = TrainState(model, make_optimizer(model, OptimizerConfig(), torch.float32))
    save_checkpoint(run / "checkpoints", "best", state, tokenizer, {})
    assert not file.exists()
    assert not load(run).calibrated


def test_a_temperature_of_other_weights_is_refused(command: Any, file: Path, run: Path) -> None:
    older = run / "checkpoints" / "prev2"
    shutil.copy(file, older / file.name)
    error = command("generate", older, "The").error()
    assert f"{older / file.name}: belongs to other weights than those beside it; run `nanogrove evaluate" in error
    assert command("generate", run, "The").code == 0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{}",
        "\xff",
        "9" * 5000,
        "[" * 100_000,
        '{"temperature": 1.5}',
        ("temperature", 1.5),
        ("temperature", "1.5"),
        ("temperature", math.nan),
        ("model", "0" * 64),
        ("measured", {}),
    ],
    ids=str,
)
def test_a_damaged_file_is_refused_and_can_be_made_anew(command: Any, file: Path, run: Path, content: Any) -> None:
    if isinstance(content, tuple):
        content = json.dumps({**json.loads(file.read_text()), content[0]: content[1]})
    file.write_bytes(content.encode("latin-1"))
    error = command("generate", run, "The").error()
    assert f"{file}: damaged, not a calibration; run `nanogrove evaluate RUN --calibrate` again, or delete it" in error
    nanogrove.score(run, calibrate=True)
    assert command("generate", run, "The", "--tokens=1", "--calibrated").code == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e9, True, math.inf])
def test_a_temperature_out_of_range_is_refused_though_sealed(
    command: Any, file: Path, run: Path, temperature: Any
) -> None:
    record = json.loads(file.read_text()) | {"temperature": temperature}
    record["checksum"] = checksum_of(record)
    file.write_text(json.dumps(record))
    if temperature is True:
        assert load(run).temperature == 1.0
    else:
        assert "damaged, not a calibration" in command("generate", run, "The").error()


@pytest.mark.parametrize("kind", ["link", "dead link", "folder", "pipe"])
def test_only_a_plain_file_is_read(command: Any, file: Path, run: Path, tmp_path: Path, kind: str) -> None:
    elsewhere = file.rename(tmp_path / "elsewhere.json")
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    assert f"{file}: is a link or no file" in command("generate", run, "The").error()


def test_nothing_is_written_through_a_link(file: Path, run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    file.unlink()
    file.symlink_to(precious)
    nanogrove.score(run, calibrate=True)
    assert precious.read_text() == "precious"
    assert not file.is_symlink()
    assert load(run).calibrated


def test_weights_that_change_meanwhile_are_noticed(file: Path, run: Path) -> None:
    best = load_best(run / "checkpoints")
    was = file.read_bytes()
    shutil.copy(run / "checkpoints" / "prev2" / "model.safetensors", best.folder)
    with pytest.raises(CheckpointError, match="another model than a moment ago"):
        calibration.save_calibration(best, json.loads(was))
    assert file.read_bytes() == was


# What cannot be.


def test_a_model_without_a_temperature(command: Any, finished: Path) -> None:
    error = command("generate", finished, "The", "--calibrated").error()
    assert "no temperature of its own yet; run `nanogrove evaluate RUN --calibrate` first" in error
    with pytest.raises(CheckpointError, match="evaluate RUN --calibrate"):
        load(finished).continuations(["The"], calibrated=True)


@pytest.mark.parametrize("split", ["validation", "train"])
def test_never_fitted_and_measured_on_one_split(command: Any, finished: Path, split: str) -> None:
    error = command("evaluate", finished, "--calibrate", f"--split={split}").error()
    assert f"a temperature is fitted on validation and measured on test; leave split={split} out" in error


def test_no_split_left_to_measure_on(forked: Any, command: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(tiny(data={"test": 0}, train={"steps": 1})))
    assert forked("train", tmp_path / "tiny.json", "--out", tmp_path / "run").code == 0
    error = command("evaluate", tmp_path / "run", "--calibrate").error()
    assert "data.test=0, so no split is left to measure a temperature on" in error
    assert not (tmp_path / "run" / "checkpoints" / "best" / "calibration.json").exists()


def test_a_split_without_a_scored_token(small: Any) -> None:
    model, corpus = small

    class Silent:
        tokenizer, has_answers = corpus.tokenizer, corpus.has_answers

        def eval_batches(self, split: str, limit: int | None = None) -> Iterator[Any]:
            for batch in corpus.eval_batches(split, limit):
                yield replace(batch, mask=batch.mask & (split == "validation"))

    with pytest.raises(PresetError, match="the test split has no token that is scored"):
        calibration.calibrate(model, Silent())  # type: ignore[arg-type]
    with pytest.raises(PresetError, match="the test split has no token that is scored"):
        calibration.fit_split(model, Silent(), "test")  # type: ignore[arg-type]


def test_a_population_has_no_temperature(command: Any, run: Path) -> None:
    """One that was never scored has no best model."""
    for name in ("best", "prev", "prev2"):
        shutil.rmtree(run / "checkpoints" / name)
    current = run / "checkpoints" / "current"
    weights = safetensors.torch.load_file(current / "model.safetensors")
    data = safetensors.torch.save({name: torch.stack([w, w]) for name, w in weights.items()})
    (current / "model.safetensors").write_bytes(data)
    state = json.loads((current / "state.json").read_text())
    state["files"]["model.safetensors"] = hashlib.sha256(data).hexdigest()
    del state["checksum"]
    state["checksum"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (current / "state.json").write_text(json.dumps(state))
    assert "no member of its population was scored yet" in command("evaluate", run, "--calibrate").error()


def test_a_disk_that_refuses(file: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    was = file.read_bytes()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"calibration\.json: cannot be written \(No space left on device\)"):
        nanogrove.score(run, calibrate=True)
    assert file.read_bytes() == was


# Confidence of what is written.


@pytest.mark.parametrize("temperature", [None, 1.9])
def test_the_probabilities_are_those_of_the_model(finished: Path, temperature: float | None) -> None:
    lm = load(finished)
    lm = LanguageModel(lm.model, lm.tokenizer, temperature)
    calibrated = temperature is not None
    settings: dict[str, Any] = {"tokens": 9, "seed": 4, "precision": "float32", "temperature": 0.7, "top_k": 5}
    prompts = ["The", "a sun"]
    continuations = lm.continuations(prompts, calibrated=calibrated, **settings)
    assert [each.text for each in continuations] == lm.generate(prompts, calibrated=calibrated, **settings)
    for prompt, each in zip(prompts, continuations, strict=True):
        new = lm.tokenizer.encode("".join(token for token in each.tokens if token != "<|endoftext|>"))
        ids = lm.tokenizer.encode(prompt) + new + [lm.tokenizer.end] * (len(each.tokens) - len(new))
        with torch.no_grad():
            scores = lm.model(torch.tensor([ids[:-1]]))[0, -len(each.tokens) :].double() / (temperature or 1.0)
        expected = scores.log_softmax(-1).gather(-1, torch.tensor(ids[-len(each.tokens) :])[:, None])[:, 0]
        assert each.probabilities == pytest.approx(expected.exp().tolist(), rel=1e-4)
        assert each.mean_log_probability == pytest.approx(float(expected.mean()), rel=1e-4)
    assert lm.continuations([]) == []


def test_a_text_that_ends_early_has_as_many_probabilities_as_tokens(finished: Path) -> None:
    """Rows that end beside others that go on, past the context, are told apart."""
    lm = load(finished)
    with torch.no_grad():
        lm.model.embed.weight[lm.tokenizer.end] *= 8
    continuations = lm.continuations([""] * 20, tokens=40, precision="float32", temperature=1.5)
    lengths = {len(each.tokens) for each in continuations}
    assert len(lengths) > 1
    for each in continuations:
        assert len(each.probabilities) == len(each.tokens)
        assert "<|endoftext|>" not in each.tokens[:-1]
        assert all(0 < p <= 1 for p in each.probabilities)
