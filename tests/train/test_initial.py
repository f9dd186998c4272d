"""Runs that begin with weights: those of `transformers`, of another run, of one each for a population."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import FAMILIES, letters, run, transformers_folder
from torch import Tensor

from nanogrove.api import to_transformers
from nanogrove.config.overrides import resolve
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import CheckpointError, DataError, PresetError, RunError
from nanogrove.language_model import load
from nanogrove.methods.warm_start import saved_members, saved_weights
from nanogrove.runs.setup import Setup, build
from nanogrove.runs.train import train
from nanogrove.train.initial import read_initial
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token


def setup_of(tiny: Any, init: object, **sections: Any) -> Setup:
    section = {"init": init if isinstance(init, list) else str(init), **sections.pop("train", {})}
    model = {"dropout": 0.0, **sections.pop("model", {})}
    return build(resolve(tiny(train=section, model=model, **sections)))


@pytest.fixture(scope="module")
def base(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps."""
    out = tmp_path_factory.mktemp("base") / "run"
    run(tiny(train={"steps": 8}, model={"dropout": 0.0}), out)
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_training_begins_with_the_weights_of_transformers_and_goes_on_as_it_does(
    family: str, tiny: Any, text_file: Path, tmp_path: Path
) -> None:
    theirs = transformers_folder(family, letters(text_file), tmp_path / "theirs")
    optimizer = {"lr": 0.003, "weight_decay": 0.1, "betas": [0.9, 0.99]}
    setup = setup_of(tiny, tmp_path / "theirs", train={"steps": 20}, optimizer=optimizer, schedule={"name": "constant"})
    state = setup.new_state()
    batch = setup.corpus.batch(0)
    torch.testing.assert_close(state.model(batch.tokens), theirs(batch.tokens).logits, atol=1e-5, rtol=0)
    ours = [event.values["loss"] for event in fit(state, setup.corpus.batch, next_token, setup.plan)]
    torch.testing.assert_close(ours, list(trained_by_torch(theirs.train(), setup)), atol=1e-4, rtol=0)


def trained_by_torch(model: Any, setup: Setup) -> Iterator[float]:
    """The losses of each step of the same batches, by torch's own optimizer."""
    decays = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.003, betas=(0.9, 0.99))
    for step in range(setup.plan.steps):
        batch = setup.corpus.batch(step)
        loss = torch.nn.functional.cross_entropy(model(batch.tokens).logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def test_a_run_begins_with_the_best_model_of_another_and_says_so(tiny: Any, base: Path, tmp_path: Path) -> None:
    preset = tiny(
        train={"steps": 3, "init": str(base)}, model={"n_layer": 5, "dropout": 0.0}, data={"tokenizer": "bpe"}
    )
    events = run(preset, tmp_path / "run")
    best = load(base)
    notes = [event.values["text"] for event in events if event.kind == "note"]
    weights = (
        f"{best.model.parameter_count():,} weights of {base}: 2 layers x 16, its {best.tokenizer.vocab_size} tokens"
    )
    assert notes == [f"begins with {weights}"]
    stored = json.loads((tmp_path / "run/preset.json").read_text())
    assert (stored["model"]["n_layer"], stored["train"]["init"]) == (2, str(base.absolute()))
    assert load(tmp_path / "run").tokenizer.to_json() == best.tokenizer.to_json()
    again = run(preset, tmp_path / "run", resume=True)  # the same command, though the model's settings are not those
    assert "the run is finished" in str(again[0].values["text"])


def test_a_run_goes_on_without_what_it_began_with(tiny: Any, base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    events = train(resolve(tiny(train={"steps": 12, "init": str(copy)})), tmp_path / "run", report=False)
    while next(events).step < 5:  # and step 4 is saved
        pass
    events.close()  # type: ignore[attr-defined]
    (copy / "checkpoints/best/model.safetensors").unlink()
    stored = json.loads((tmp_path / "run/preset.json").read_text())
    assert run(stored, tmp_path / "run", resume=True)[-1].step == 12


def test_a_run_does_not_begin_again_with_other_weights(tiny: Any, base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    preset = tiny(train={"steps": 3, "init": str(copy)}, save={"every": 100})
    events = train(resolve(preset), tmp_path / "run", report=False)
    start = next(event for event in events if event.kind == "start")
    events.close()  # type: ignore[attr-defined]
    assert start.values["init"] == [read_initial(str(base)).digest]
    shutil.rmtree(copy)
    run(tiny(seed=1, train={"steps": 2}, model={"dropout": 0.0}), copy)
    record = (tmp_path / "run/events.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"copy has other weights than this run began with; bring them back, or start"):
        run(preset, tmp_path / "run", resume=True)
    assert (tmp_path / "run/events.jsonl").read_bytes() == record
    shutil.rmtree(copy)
    shutil.copytree(base, copy)
    assert run(preset, tmp_path / "run", resume=True)[-1].step == 3


def test_tokens_are_added_and_a_context_is_cut(tiny: Any, base: Path, text_file: Path, tmp_path: Path) -> None:
    more, file = letters(text_file, "™"), tmp_path / "tokenizer.json"
    known = read_initial(str(base))
    ids = known.tokenizer.backend.get_vocab(with_added_tokens=True)
    extended = Tokenizer.from_json(known.tokenizer.to_json())
    extended.backend.add_special_tokens(["<|user|>"])
    file.write_text(extended.backend.to_str(), encoding="utf-8")
    setup = setup_of(tiny, base, data={"tokenizer": str(file)}, model={"block_size": 8})
    model, rows = setup.new_state().model, len(ids)
    assert model.config.vocab_size == rows + 1
    assert torch.equal(model.embed.weight[:rows], known.weights["embed.weight"])
    assert model.position is not None
    assert torch.equal(model.position.weight, known.weights["position.weight"][:8])
    file.write_text(more.to_json(), encoding="utf-8")
    with pytest.raises(
        PresetError, match=r"has another vocabulary than the data, .*; leave data.tokenizer out, if it is set, or"
    ):
        setup_of(tiny, base, data={"tokenizer": str(file)})


def test_a_chat_adds_the_tokens_of_its_template(tiny: Any, base: Path, tmp_path: Path) -> None:
    turns = [
        [{"role": "user", "content": f"the sun{n * ' a'}"}, {"role": "assistant", "content": "old"}] for n in range(40)
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    data = {"type": "chat", "path": str(tmp_path / "chat.jsonl")}
    setup = build(resolve(tiny(data=None) | {"data": data, "train": {"steps": 1, "init": str(base), "device": "cpu"}}))
    known, model = read_initial(str(base)).weights["embed.weight"], setup.new_state().model
    assert len(model.embed.weight) == setup.corpus.tokenizer.vocab_size > len(known)
    assert torch.equal(model.embed.weight[: len(known)], known)


def test_a_reward_model_has_an_output_of_its_own(base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the sun {word}{' a' * n}", "reward": n / 40} for n, word in enumerate(["walks", "sings"] * 20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    preset = {
        "method": "reward_model",
        "data": {"type": "rewarded", "path": str(tmp_path / "rows.jsonl")},
        "model": {"scalar": True},
        "train": {"steps": 1, "init": str(base), "device": "cpu"},
    }
    setup = build(resolve(preset))
    model = setup.new_state().model
    assert torch.equal(model.embed.weight, read_initial(str(base)).weights["embed.weight"])
    assert model.head is not None


def test_a_population_begins_with_one_model_or_one_each(tiny: Any, base: Path, text_file: Path, tmp_path: Path) -> None:
    method = {"name": "evolve", "population_size": 4, "generations": 1, "steps_per_generation": 2}

    def embeddings(init: object, **train_section: Any) -> Tensor:
        setup = setup_of(tiny, init, method=method, train={"steps": None, **train_section})
        return setup.new_state().model.embed.weight.detach()

    first = read_initial(str(base)).weights["embed.weight"]
    assert torch.equal(embeddings(base), first.expand(4, -1, -1))
    noisy = embeddings(base, init_noise=0.1) - first
    size = 0.1 * first.square().mean().sqrt()
    assert all(0.8 < float(each.square().mean().sqrt() / size) < 1.2 for each in noisy)
    assert not torch.equal(noisy[0], noisy[1])
    run(tiny(seed=1, train={"steps": 2}, model={"dropout": 0.0}), tmp_path / "other")
    several = [str(base), str(tmp_path / "other"), str(base), str(base)]
    expected = [read_initial(each).weights["embed.weight"] for each in several]
    assert torch.equal(embeddings(several), torch.stack(expected))
    with pytest.raises(PresetError, match=r"train\.init: 2 sources for 4 models; give one for all, or one for each"):
        embeddings(several[:2])
    transformers_folder("llama", letters(text_file), tmp_path / "llama")
    with pytest.raises(PresetError, match="llama is another kind of model than"):
        embeddings([str(base), str(tmp_path / "llama"), str(base), str(base)])


def test_a_base_may_be_a_folder_for_transformers(tiny: Any, base: Path, tmp_path: Path) -> None:
    to_transformers(base, tmp_path / "folder")
    setup = build(resolve(tiny()))
    weights = saved_weights(str(tmp_path / "folder"), setup.corpus, read_initial(str(base)).config)
    assert all(torch.equal(weights[name], known) for name, known in read_initial(str(base)).weights.items())
    mixed = saved_members([str(tmp_path / "folder"), str(base)], setup.corpus, read_initial(str(base)).config, 2)
    assert torch.equal(mixed["embed.weight"][0], weights["embed.weight"])
    other = read_initial(str(base)).config.model_copy(update={"norm_eps": 0.1})  # the same shapes
    with pytest.raises(CheckpointError, match=r"folder: is another model, its norm_eps is 1e-05 and here 0\.1"):
        saved_weights(str(tmp_path / "folder"), setup.corpus, other)
    with pytest.raises(PresetError, match=r"train.init and method.base both name weights to begin with; give one"):
        resolve(
            tiny(method={"name": "align", "reward": {"terms": {"a": 1.0}}, "base": "runs/a"}, train={"init": str(base)})
        )


def test_a_model_of_the_hub_is_downloaded_where_it_is_named(
    tiny: Any, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers_folder("llama", letters(text_file), tmp_path / "theirs")

    def download(name: str, *, allow_patterns: list[str], local_dir: Path) -> None:
        if name != "someone/model":
            raise OSError("404: there is no\nsuch repository")
        for file in (tmp_path / "theirs").iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                local_dir.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    weights = read_initial("someone/model").weights
    assert all(torch.equal(weights[name], w) for name, w in read_initial(str(tmp_path / "theirs")).weights.items())
    with pytest.raises(
        CheckpointError, match=r"no/one: neither a folder here nor to be had from the hub \(404: there is"
    ):
        read_initial("no/one")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match="theirs/nothing: neither a run, a checkpoint nor a"
    ):  # not asked of the hub
        read_initial("theirs/nothing")


def test_what_cannot_be_begun_with(tiny: Any, base: Path, text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(
        CheckpointError, match="neither a run, a checkpoint nor a model of transformers; give the folder"
    ):
        setup_of(tiny, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"state\.json: is a file; give the folder that it is in"):
        setup_of(tiny, base / "checkpoints/best/state.json")
    transformers_folder("gpt2", letters(text_file), folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(letters(text_file, "™®").to_json(), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"its tokenizer has \d+ tokens and its model \d+; they do not belong"):
        setup_of(tiny, folder)
    tokenizer.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: missing; save it there with AutoTokenizer"):
        setup_of(tiny, folder)
    with pytest.raises(PresetError, match=r"model.block_size=64: .* has 16 positions; set model.block_size=16 or less"):
        setup_of(tiny, base, model={"block_size": 64})
    with pytest.raises(PresetError, match="init_noise is added to the weights of init; set that too"):
        resolve(tiny(train={"init_noise": 0.1}))
    for nothing in ("", [], [""]):  # as an empty variable of a shell gives
        with pytest.raises(
            PresetError, match="init names nothing; give a folder or a name on the hub, or leave init out"
        ):
            resolve(tiny(train={"init": nothing}))


def test_weights_that_are_not_numbers_are_refused_before_training(
    tiny: Any, base: Path, text_file: Path, tmp_path: Path
) -> None:
    theirs = transformers_folder("llama", letters(text_file), tmp_path / "folder")
    with torch.no_grad():
        theirs.lm_head.weight[0, 0] = torch.inf
    theirs.save_pretrained(tmp_path / "folder")
    with pytest.raises(
        CheckpointError, match=r"folder: weight head\.weight is NaN or infinite; begin with other weights"
    ):
        setup_of(tiny, tmp_path / "folder")


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"tokenizer_config.json": {"chat_template": "one", "auto_map": {"AutoTokenizer": "evil.Code"}}}, "one"),
        ({"tokenizer_config.json": {"chat_template": "one"}, "chat_template.jinja": "two"}, "two"),
        ({"tokenizer_config.json": {"chat_template": [
            {"name": ["tool_use"], "template": "a"}, {"name": "default", "template": "b"}]}}, "b"),
        ({"tokenizer_config.json": {"model_max_length": 8}}, None),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "a"}]}}, "is named default; put one"),
        ({"tokenizer_config.json": {"chat_template": {"a": "b"}}}, "chat_template is not text; put the template"),
        ({"tokenizer_config.json": "{"}, "not JSON"),
    ],
)  # fmt: skip
def test_the_chat_template_of_a_folder(base: Path, tmp_path: Path, files: Any, template: str | None) -> None:
    to_transformers(base, tmp_path / "folder")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "folder" / name).write_text(text)
    if (template is not None and " " in template) or template == "not JSON":
        with pytest.raises(DataError, match=template):
            read_initial(str(tmp_path / "folder"))
    else:
        assert read_initial(str(tmp_path / "folder")).tokenizer.chat_template == template


def test_a_chat_template_that_is_not_taken_is_named(tiny: Any, base: Path, tmp_path: Path) -> None:
    turns = [
        [{"role": "user", "content": f"the sun{n * ' a'}"}, {"role": "assistant", "content": "old"}] for n in range(40)
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    to_transformers(base, tmp_path / "folder")
    template = tmp_path / "folder/chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}<|endoftext|>")
    data = {"type": "chat", "path": str(tmp_path / "chat.jsonl")}
    preset = tiny(data=None) | {"data": data, "train": {"steps": 1, "init": str(tmp_path / "folder")}}
    notes = [str(event.values.get("text")) for event in run(preset, tmp_path / "run")]
    assert any(text.endswith(f"; to take it: data.template={template}") for text in notes)
