"""Adapters of low rank: equal to those of `peft`, saved as these, resumed bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import FAMILIES, letters, run, transformers_folder

from nanogrove.api import from_transformers
from nanogrove.config.overrides import resolve
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.language_model import load
from nanogrove.runs.setup import Setup, build
from nanogrove.train.initial import read_initial
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.saving import save_checkpoint
from nanogrove.train.state import TrainState

LORA = {"rank": 4, "alpha": 8.0}
ADAMW = {"lr": 0.01, "weight_decay": 0.1, "betas": [0.9, 0.99]}


def with_lora(tiny: Any, init: Path, steps: int = 8, **sections: Any) -> dict[str, Any]:
    section = {"steps": steps, "init": str(init), "lora": LORA, **sections.pop("train", {})}
    preset: dict[str, Any] = tiny(train=section, model={"dropout": 0.0}, optimizer=ADAMW, **sections)
    return preset


def saved(state: TrainState, setup: Setup, root: Path) -> Path:
    """The checkpoint of the model alone, which is a folder of `peft` too."""
    save_checkpoint(root, "best", state, setup.corpus.tokenizer, {})
    return root / "best"


@pytest.fixture(scope="module")
def base(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "run"
    run(tiny(train={"steps": 8}, model={"dropout": 0.0}), out)
    return out


PEFT_WARNS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of transformers


@pytest.mark.slow
@PEFT_WARNS
@pytest.mark.parametrize("family", FAMILIES)
def test_training_equals_that_of_peft(family: str, tiny: Any, text_file: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs = transformers_folder(family, letters(text_file), tmp_path / "theirs")
    setup = build(resolve(with_lora(tiny, tmp_path / "theirs", 12, schedule={"name": "constant"})))
    state = setup.new_state()
    assert state.adapter is not None
    for each in state.adapter.low_rank():  # so that both have gradients from the first step
        torch.nn.init.normal_(each.b.weight, std=0.02)
    state.apply_adapter()
    adapted = peft.PeftModel.from_pretrained(theirs, saved(state, setup, tmp_path / "a"), is_trainable=True)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for _, p in state.named_parameters())
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    for step, event in enumerate(fit(state, setup.corpus.batch, next_token, setup.plan)):
        batch = setup.corpus.batch(step)
        loss = torch.nn.functional.cross_entropy(adapted(batch.tokens).logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert event.values["loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert event.values["grad_norm"] == pytest.approx(float(norm), abs=1e-4)
    tokens = setup.corpus.batch(99).tokens
    ours, unmerged = state.model(tokens), adapted(tokens).logits
    torch.testing.assert_close(ours, unmerged, atol=1e-5, rtol=0)
    torch.testing.assert_close(adapted.merge_and_unload()(tokens).logits, ours, atol=1e-5, rtol=0)


@pytest.mark.slow
@PEFT_WARNS
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_an_adapter_that_peft_saved_is_begun_with(targets: Any, tiny: Any, text_file: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    theirs = transformers_folder("nanochat", letters(text_file), tmp_path / "theirs")
    config = peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=targets)
    adapted = peft.get_peft_model(theirs, config)
    adapted.base_model.peft_config["default"].base_model_name_or_path = str(tmp_path / "theirs")
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    setup = build(resolve(tiny(train={"steps": 1, "init": str(tmp_path / "adapter")}, model={"dropout": 0.0})))
    tokens = setup.corpus.batch(0).tokens
    torch.testing.assert_close(setup.new_state().model(tokens), adapted(tokens).logits, atol=1e-5, rtol=1e-5)


def test_a_run_trains_adapters_alone_and_keeps_them_merged(tiny: Any, base: Path, tmp_path: Path) -> None:
    events = run(with_lora(tiny, base), tmp_path / "run")
    notes = [event.values["text"] for event in events if event.kind == "note"]
    assert notes[1] == "trains 2,048 weights: adapters of rank 4 on qkv, out, up, down"
    before, after = read_initial(str(base)).weights, load(tmp_path / "run").model.state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    maps = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert changed == {f"blocks.{n}.{name}.weight" for n in range(2) for name in maps}
    best = tmp_path / "run/checkpoints/best"
    only = tmp_path / "adapter"
    only.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(best / name, only)
    again = from_transformers(only).model.state_dict()
    for name, weight in after.items():
        torch.testing.assert_close(again[name], weight, atol=1e-6, rtol=0)


EVOLVE: dict[str, Any] = {
    "method": {"name": "evolve", "population_size": 4, "generations": 2, "steps_per_generation": 3, "noise": 0.05,
               "crossover": "layers", "crossover_rate": 1.0, "parents": 0.5, "significance": None},
    "train": {"steps": None},
}  # fmt: skip


@pytest.mark.parametrize("sections", [{}, EVOLVE])
def test_a_run_of_adapters_is_resumed_bit_for_bit(
    sections: dict[str, Any], tiny: Any, base: Path, tmp_path: Path, resumes_exactly: Any
) -> None:
    resumes_exactly(with_lora(tiny, base, **sections), tmp_path, [("step", 5)])


def test_models_are_what_their_adapters_make_of_them_after_each_event(tiny: Any, base: Path) -> None:
    setup = build(resolve(with_lora(tiny, base, **EVOLVE)))
    state, births = setup.new_state(), []
    assert state.adapter is not None
    for each in state.adapter.low_rank():  # so that children differ from those that they replace
        torch.nn.init.normal_(each.b.weight)
    for event in setup.method.run(state, setup.corpus, setup.plan, setup.preset.method):
        births += event.values.get("births", [])
        for path, maps in state.adapter.maps.items():
            change = torch.cat([2 * each.b.weight @ each.a.weight for each in maps], -2)
            expected = state.adapter.base[path] + change
            torch.testing.assert_close(state.model.get_parameter(f"{path}.weight"), expected, atol=1e-6, rtol=0)
    assert births


def test_what_is_new_is_trained_whole(tiny: Any, base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the sun {word}{' a' * n}", "reward": n / 40} for n, word in enumerate(["walks", "sings"] * 20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    preset = {
        "method": "reward_model",
        "data": {"type": "rewarded", "path": str(tmp_path / "rows.jsonl")},
        "model": {"scalar": True},
        "train": {"steps": 4, "init": str(base), "lora": LORA},
        "save": {"every": 2},
    }
    events = run(preset, tmp_path / "run")
    assert any("; head trained whole, since something of it is new" in str(e.values.get("text")) for e in events)
    state = json.loads((tmp_path / "run/checkpoints/current/state.json").read_text())
    assert state["trained_whole"] == ["head"]


def adapter_of(run_folder: Path, out: Path, **changes: object) -> Path:
    """The adapter of a run in a folder of its own, with other settings."""
    out.mkdir()
    shutil.copy(run_folder / "checkpoints/best/adapter_model.safetensors", out)
    settings = json.loads((run_folder / "checkpoints/best/adapter_config.json").read_text()) | changes
    (out / "adapter_config.json").write_text(json.dumps(settings))
    return out


def test_adapters_that_do_not_fit_are_refused(tiny: Any, base: Path, tmp_path: Path) -> None:
    run(with_lora(tiny, base, 2), tmp_path / "run")
    run(tiny(train={"steps": 2}, seed=1), tmp_path / "other")
    run(tiny(train={"steps": 2}, model={"n_embd": 24}), tmp_path / "wider")

    def refused(name: str, **changes: object) -> str:
        with pytest.raises(CheckpointError) as error:
            read_initial(str(adapter_of(tmp_path / "run", tmp_path / name, **changes)))
        assert "\n" not in str(error.value)
        return str(error.value)

    other = refused("a", base_model_name_or_path=str(tmp_path / "other"))
    assert f"is an adapter of another model than {tmp_path / 'other'}: it adapts other weights" in other
    assert "are not (4, 24) and (72, 4)" in refused("b", base_model_name_or_path=str(tmp_path / "wider"))
    assert "'no/thing' is no model here; download it (hf" in refused("c", base_model_name_or_path="no/thing")
    assert "use_dora=true is not supported; merge" in refused("d", use_dora=True)
    assert "r=0 and lora_alpha=8.0 are no rank and scale" in refused("e", r=0)
    assert "is no model here" in refused("f", base_model_name_or_path=str(tmp_path / "a"))
    (tmp_path / "d/adapter_model.safetensors").write_bytes(b"nothing")
    (tmp_path / "d/adapter_config.json").write_text((tmp_path / "b/adapter_config.json").read_text())
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: cannot be read"):
        read_initial(str(tmp_path / "d"))


def test_a_rank_above_the_width_is_refused(tiny: Any, base: Path) -> None:
    with pytest.raises(PresetError, match="rank=17: is above the width of the model; set 16 or less"):
        build(resolve(with_lora(tiny, base, train={"lora": {"rank": 17}})))


def test_adapters_need_one_set_of_weights(tiny: Any, base: Path) -> None:
    for section in ({"init": None}, {"init_noise": 0.1}, {"init": [str(base), str(base)]}):
        with pytest.raises(PresetError, match="lora adapts one set of weights; set init to one source, without"):
            resolve(with_lora(tiny, base, train=section))
