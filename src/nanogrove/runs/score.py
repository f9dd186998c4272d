"""Scores a run's best model on a whole split, once the run has ended or at any time before."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogrove.config.overrides import resolve
from nanogrove.corpora import make_corpus
from nanogrove.data.splits import SPLITS
from nanogrove.errors import CheckpointError, PresetError, RunError
from nanogrove.evaluate import calibration
from nanogrove.methods import load_method
from nanogrove.methods.contract import Trained
from nanogrove.record.folder import read_preset, refuse_link
from nanogrove.train.checkpoint import load_latest, load_student, predictor_of, read_checkpoint
from nanogrove.train.precision import pick_device


def evaluate(
    run: Path,
    split: str | None = None,
    device: str | None = None,
    calibrate: bool = False,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Scores a run's best model on the whole of a split: its loss, and the other measures that such data allows.

    When left out, `split` is validation for text, and test for a grammar, whose samples cost nothing to spend, and
    `device` is the CPU for a run whose preset names it, so that its figures come again, else `auto`. With
    `calibrate` it is test: a temperature is fitted on validation and kept beside the weights, and its effect on test
    is given under `calibration`; see `nanogrove.evaluate.calibration`. With `allow_code` a function that the preset
    names as a reward is run; without it, `unmeasured` says that none is.

    Raises RunError for a folder without a run, CheckpointError when the data has changed since training, and
    PresetError for an unknown split, or where a temperature cannot be measured.
    """
    if split not in (None, *SPLITS):
        raise PresetError(f"{split!r} is not a split; take one of {', '.join(SPLITS)}")
    if calibrate and split not in (None, "test"):
        raise PresetError(f"a temperature is fitted on validation and measured on test; leave split={split} out")
    if calibrate:
        refuse_link(run)
    stored = read_preset(run)
    if stored is None:
        raise RunError(f"{run}: no run here; give a folder such as runs/NAME")
    checkpoint = read_checkpoint(run)
    preset = resolve(stored)
    corpus = make_corpus(preset.data, checkpoint.config.block_size, preset.train.batch_size, preset.seed)
    data = corpus.describe()
    if checkpoint.state.get("data") != data["fingerprint"]:
        raise CheckpointError(f"{run}: the data has changed since; scores on it could include what it was trained on")
    place = pick_device(device or ("cpu" if preset.train.device == "cpu" else "auto"))
    method = load_method(preset.method.name)
    model, student = predictor_of(checkpoint, place), partial(load_student, run / "checkpoints", place)
    trained = Trained(model, preset.method, preset.seed, partial(_kept, run), student, allow_code)
    chosen = split or ("test" if calibrate else corpus.default_split)
    overlaps = ("overlap", "expected_overlap")
    known: dict[str, Any] = {key: data[key] for key in overlaps if key in data and chosen == "test"}
    if not calibrate:
        return {**method.evaluate(trained, corpus, chosen, None), **known, "step": checkpoint.state["step"]}
    if preset.model.scalar:
        raise PresetError(f"{run}: is a reward model; a temperature is for one that predicts tokens")
    if "test" not in corpus.splits:
        raise PresetError(f"{run}: made with data.test=0, so no split is left to measure a temperature on; train anew")
    if model.population is not None:
        raise PresetError(
            f"{run}: is an ensemble of {model.population} models, and a temperature is for one; leave --calibrate out"
        )
    if checkpoint.model["embed.weight"].dim() == 3:
        raise PresetError(f"{run}: no member of its population was scored yet; a temperature belongs to one model")
    fitted = calibration.calibrate(model, corpus)
    calibration.save_calibration(checkpoint, fitted)
    score = method.evaluate(trained, corpus, chosen, None)
    return {**score, **known, "step": checkpoint.state["step"], "calibration": fitted}


def _kept(run: Path) -> Mapping[str, Tensor]:
    """The tensors that the run's method keeps, of its newest checkpoint; none where no checkpoint has them."""
    checkpoint, _ = load_latest(run / "checkpoints")
    return {} if checkpoint is None else checkpoint.method_tensors
