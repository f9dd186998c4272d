"""A task as a corpus: what a row holds, what of it is scored, which batches come, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.corpora import make_corpus
from nanogrove.data.rng import random
from nanogrove.errors import NanogroveError
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.synthetic.examples import Mixture, TaskConfig, TaskCorpus

TASKS = {
    "copy": {},
    "reverse": {},
    "reversed-addition": {"equal": False},
    "addition": {},
    "multiplication": {"equal": False},
    "maze": {"nodes": 5},
}


def corpus(task: str = "copy", base: tuple[int, int] = (1, 4), block_size: int = 96, **settings: Any) -> TaskCorpus:
    config = TaskConfig.model_validate({"type": "task", "task": task, "base": base, **settings})
    built = make_corpus(config, block_size, 8, seed=3)
    assert isinstance(built, TaskCorpus)
    return built


def spelled(made: TaskCorpus, tokens: torch.Tensor) -> str:
    symbols = {made.tokenizer.encode(s)[0]: s for s in made.task.symbols} | {made.tokenizer.end: "|"}
    return "".join(symbols[token] for token in tokens.tolist())


@pytest.mark.parametrize("task", TASKS)
def test_answers_and_their_end_are_scored_and_nothing_else(task: str) -> None:
    made = corpus(task, options=TASKS[task])
    for batch in (made.batch(5), next(made.eval_batches("validation"))):
        assert batch.tokens.shape == (8, made.length)
        for tokens, targets, mask in zip(batch.tokens, batch.targets, batch.mask, strict=True):
            row = spelled(made, torch.cat([tokens[:1], targets]))
            prompt, _, rest = row.partition("=")
            answer, _, filling = rest.partition("|")
            assert made.task.correct(f"{prompt}=", answer)
            assert set(filling) <= {"|"}
            scored = "".join(symbol for symbol, counts in zip(row[1:], mask.tolist(), strict=True) if counts)
            assert scored == f"{answer}|"
        assert batch.weight.eq(1).all()
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])


def test_batches_are_functions_of_seed_and_step() -> None:
    made, again = corpus(), corpus()
    late = [again.batch(step).tokens for step in (9, 2)]
    assert torch.equal(made.batch(9).tokens, late[0])
    assert torch.equal(made.batch(2).tokens, late[1])
    assert not torch.equal(*late)
    other = TaskCorpus(made.config, 64, 8, seed=4)
    assert not torch.equal(other.batch(2).tokens, late[1])


def test_base_difficulties_come_in_equal_shares() -> None:
    made = TaskCorpus(corpus(base=(2, 5)).config, 64, 4000, seed=0)
    starts = (made.rows(made.draw(0, 4000), made.length).start - 1).tolist()
    counts = np.bincount(starts, minlength=7)
    assert counts[:2].sum() == counts[6:].sum() == 0
    assert all(abs(count - 1000) < 4 * 1000**0.5 for count in counts[2:6])


def test_splits_are_fixed_and_of_all_difficulties() -> None:
    made = corpus(held_out=10)
    seen = {}
    for split in ("validation", "test"):
        rows = torch.cat([batch.tokens for batch in made.eval_batches(split)])
        assert len(rows) == 40
        assert torch.equal(rows, torch.cat([batch.tokens for batch in made.eval_batches(split)]))
        seen[split] = {spelled(made, row) for row in rows[20:]}  # of three and four digits, which seldom coincide
    assert seen["validation"] != seen["test"]
    few = torch.cat([batch.mask for batch in made.eval_batches("validation", limit=4 * made.length)])
    assert (few != 0).sum(1).tolist() == [2, 3, 4, 5], "a limit takes evenly from all difficulties"


def test_answers_are_read_back_up_to_their_end() -> None:
    made = corpus()
    pairs = made.draw(0, 50)
    rows = made.rows(pairs, 20)
    for length in (2, 3, 4):
        mine = [n for n, (prompt, _) in enumerate(pairs) if len(prompt) == length]
        assert made.answers(rows.tokens[mine, length:].long()) == [pairs[n][1] for n in mine]
    one, end = made.tokenizer.encode("1")[0], made.tokenizer.end
    unknown = made.tokenizer.vocab_size
    written = torch.tensor([[one, end, -1], [end, -1, -1], [one, one, one], [one, unknown, end], [one, end, unknown]])
    assert made.answers(written) == ["1", "", None, None, "1"]


def test_each_member_draws_the_mixture_by_itself_and_in_the_shares_asked_for() -> None:
    made = TaskCorpus(corpus(base=(1, 3)).config, 64, 64, seed=1)
    labels = [made.rows([(f"{n}{d}=", f"{n}{d}") for d in range(9)], 7 + n) for n in range(3)]
    mixed = Mixture(made, 2, 12, labels[:2], labels[2], 0.25)
    counts = np.zeros(4)
    for step in range(50):
        batch = mixed.batch(step)
        assert batch.tokens.shape == (2, 64, 12)
        assert ((batch.extra["labels"] == 3).sum(1) == 16).all()
        assert not torch.equal(batch.tokens[0, :48], batch.tokens[1, :48])
        assert not torch.equal(batch.tokens[0, 48:], batch.tokens[1, 48:]), "labels, too, are drawn one by one"
        counts += np.bincount(batch.extra["labels"].flatten().numpy(), minlength=4)
        for member in range(2):
            for n in range(3):  # what a source says is where the row is from
                rows = batch.tokens[member][batch.extra["labels"][member] == n + 1]
                assert all(spelled(made, row).startswith(str(n)) for row in rows)
    older = counts[:3] / counts[:3].sum()
    assert older == pytest.approx([3 / 5, 1 / 5, 1 / 5], abs=0.03)
    assert torch.equal(mixed.batch(7).tokens, mixed.batch(7).tokens)
    alone = Mixture(made, 2, 12, labels[:2], None, 0.25).batch(0)
    assert alone.extra["labels"].max() <= 2


def test_labels_are_not_cut_where_they_join_a_wider_batch() -> None:
    made = corpus()
    batch = Mixture(made, 1, 20, [], made.rows([("98=", "98")], 5), 1.0).batch(0)
    assert {spelled(made, row) for row in batch.tokens[0]} == {"98=98" + "|" * 15}
    assert batch.mask[0].sum(1).tolist() == [3] * 8


PRESET = {
    "data": {"type": "task", "task": "copy", "base": [1, 3]},
    "model": {"block_size": 16, "n_layer": 1, "n_embd": 8, "n_head": 1},
    "train": {"steps": 2, "batch_size": 4, "precision": "float32", "threads": 1, "accumulation": 1, "compile": False},
}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.task=coppy", "did you mean copy?"),
        ("data.base=[4, 2]", "write [2, 4]"),
        ("data.base=[0, 2]", "difficulty 0 is out of range"),
        ("data.base=[1, 20]", "set model.block_size=41"),
        ("data.base=3", "data.base"),
        ('data.options={"nodes": 3}', "no option is called 'nodes'"),
        ("data.taks=copy", "did you mean data.task?"),
        ("data.held_out=0", "data.held_out"),
        ("train.steps=null", "no budget"),
    ],
)
def test_bad_settings_are_told_in_one_line(override: str, said: str) -> None:
    with pytest.raises(NanogroveError) as caught:
        build(resolve(PRESET, [override]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_just_fits_is_taken() -> None:
    assert build(resolve(PRESET, ["data.base=[1, 7]", "model.block_size=15"])).corpus.length == 15
    with pytest.raises(NanogroveError, match=r"set model\.block_size=15"):
        build(resolve(PRESET, ["data.base=[1, 7]", "model.block_size=14"]))


def test_pretraining_learns_a_task(tmp_path: Any) -> None:
    preset = resolve(PRESET, ["train.steps=60", "optimizer.lr=0.03", "data.base=[1, 1]", "evaluate.every=20"])
    losses = [e.values["loss"] for e in train(preset, tmp_path / "run") if e.kind == "eval"]
    assert losses[-1] < losses[0]
    assert losses[-1] < 1.3, "one digit and its end are a guess of 1.15 nats a token"


def test_streams_do_not_meet() -> None:
    """Base batches, and examples by number, are drawn from generators of their own."""
    made = corpus()
    drawn = random(3, "base", 0, 1).integers(1 << 30)
    assert drawn != random(3, "train", 0, 1).integers(1 << 30)
    assert made.draw(0, 8) != made.draw(0, 8, 0)
