"""nanogrove from Python: a few functions over `runs`, and the same errors as the command line.

`run` and `score` are the verbs `train` and `evaluate`, whose names are taken by packages.
"""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import as_overrides, resolve
from nanogrove.evaluate.reward import load_reward
from nanogrove.exports.browser import Weights
from nanogrove.exports.card import UNKNOWN_LICENSE
from nanogrove.exports.model_report import write_model_report
from nanogrove.exports.write import export as write_export
from nanogrove.language_model import LanguageModel, load
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import family_of, import_model
from nanogrove.reports.report import write_report
from nanogrove.runs.score import evaluate
from nanogrove.runs.train import train
from nanogrove.studies.compare import Options
from nanogrove.studies.compare import compare as run_study
from nanogrove.studies.judge import Findings
from nanogrove.studies.settings import Equal, read_settings
from nanogrove.train.initial import read_transformers
from nanogrove.train.weights import load_weights


def run(
    preset: str | Mapping[str, Any],
    out: str | Path,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    allow_code: bool = False,
    extend: bool = False,
) -> Any:
    """Trains a preset, named, by path, or given as its JSON, in the folder `out`; returns its best model.

    That is a `LanguageModel`, or of method reward_model a `RewardModel`.
    `overrides` are by dotted key, as in `{"train.steps": 100}`. With `resume`, a run that `out` holds already goes on,
    and one that is finished is only loaded, unless the budget is larger: then it goes on for longer, and with `extend`
    the schedule is extended where that of the longer run would have been another. With `allow_code`, functions that the
    preset names as `module:function` are run. For the events as they come, see `nanogrove.runs.train.train`. Raises
    NanogroveError, and KeyboardInterrupt or, after SIGTERM, SystemExit where a signal stopped the run, saved, before
    its end.

    >>> preset = {"data": {"sources": "my.txt", "tokenizer": "char"}, "evaluate": {"tokens": 100}}
    >>> preset["model"] = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}
    >>> model = nanogrove.run(preset, "runs/small", {"train.steps": 5})
    >>> model.generate("Once upon", tokens=5).startswith("Once upon")
    True
    """
    values = read_preset_file(preset) if isinstance(preset, str) else preset
    changes = as_overrides(overrides or {})
    for event in train(resolve(values, changes), Path(out), resume, allow_code, extend=extend):
        if event.kind == "stop":
            message = f"{out}: stopped at step {event.step} and saved; resume=True goes on"
            raise KeyboardInterrupt(message) if event.values["signal"] == signal.SIGINT else SystemExit(message)
    return load_reward(out) if resolve(values, changes).model.scalar else load(out)


def compare(
    preset: str | Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    out: str | Path,
    seeds: int = 8,
    equal: Equal = "tokens",
    *,
    tune: Mapping[str, Sequence[Any]] | None = None,
    engine: str = "auto",
    allow_code: bool = False,
    **settings: Any,
) -> Findings:
    """Compares arms, each a preset with overrides, over paired seeds at equal compute, in the folder `out`.

    The same call goes on with what is missing; more seeds and more arms may be added. What the study shows is returned,
    and lies in `out` with a report. Raises StudyError for what cannot be compared, and KeyboardInterrupt where Ctrl-C
    stopped it, its runs saved.

    Args:
        preset: of all arms: a name, a path, or its JSON.
        arms: overrides by dotted key for each arm, by its name; the others are compared with the first.
        out: the folder of the study.
        seeds: paired seeds of all arms.
        equal: what all arms have the same of.
        tune: values that each arm tries first, by dotted key.
        engine: where runs are trained; see `nanogrove.studies.engines`.
        allow_code: whether functions that presets name as `module:function` are run.
        settings: the further settings of `nanogrove.studies.settings.StudySettings`.

    >>> preset = {"data": {"sources": "my.txt", "tokenizer": "char"}, "evaluate": {"tokens": 100}}
    >>> preset |= {"model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}, "train": {"steps": 3}}
    >>> arms = {"slow": {"optimizer.lr": 0.0001}, "fast": {"optimizer.lr": 0.01}}
    >>> [verdict.outcome for verdict in nanogrove.compare(preset, arms, "studies/rates", seeds=6).verdicts]
    ['better']
    """
    named = [{"name": name, "overrides": as_overrides(overrides)} for name, overrides in arms.items()]
    values = {**settings, "preset": preset, "arms": named, "seeds": seeds, "equal": equal, "tune": dict(tune or {})}
    updates = run_study(read_settings(values, str(out)), Path(out), Options(engine, allow_code=allow_code))
    while True:
        try:
            next(updates)
        except StopIteration as end:
            findings: Findings = end.value
            return findings


def score(run: str | Path, split: str | None = None, calibrate: bool = False) -> dict[str, Any]:
    """Loss in nats per token of a run's best model on the whole of a split, with what else is known of such data.

    Bits per byte for text; for a grammar the best loss, the excess and its error, accuracies and divergences. With
    `calibrate` a temperature is fitted on validation and kept for `load`, and what it brings on test, which is the
    split then, is given under `calibration`.

    >>> measured = nanogrove.score("runs/mine", "test")
    >>> 0 < measured["bits_per_byte"] < 8
    True
    """
    return evaluate(Path(run), split, calibrate=calibrate)


def report(run: str | Path, with_model: Weights | None = None, large: bool = False) -> Path:
    """Writes `report.html` of a run anew, or the report in which its model writes text, and returns its path.

    Raises RunError and CheckpointError, in one line, for a run that cannot be read, and PresetError for a model that a
    page cannot compute, for a format of weights that there is not, and for a page above 20 MB that is not asked for.

    Args:
        run: the run folder.
        with_model: `float32`, `float16` or `int8`: the format of the weights in `report-with-model.html`, which is
            written then in place of `report.html`.
        large: whether that page may have more than 20 MB.

    >>> nanogrove.report("runs/mine").name
    'report.html'
    >>> nanogrove.report("runs/mine", with_model="int8").name
    'report-with-model.html'
    """
    if with_model is None:
        return write_report(Path(run))
    return write_model_report(Path(run), with_model, large, announce=lambda line: None)


def export(
    run: str | Path,
    to: str,
    out: str | Path | None = None,
    dtype: str | None = None,
    license: str = UNKNOWN_LICENSE,
    overwrite: bool = False,
) -> Path:
    """Exports a run's best model, a checkpoint or a folder for transformers; returns the folder that it wrote.

    Raises NanogroveError, in one line, for a model that the format cannot hold, and where `out` holds something.

    Args:
        run: the folder of the model.
        to: `transformers`, `gguf` for llama.cpp, or `onnx` for onnxruntime and transformers.js.
        out: the folder that is written; `exports/NAME-FORMAT-DTYPE` when left out.
        dtype: what weights are stored as: `f32`, when left out, `f16`, or for gguf `q8_0`.
        license: what the model card says, such as `mit`.
        overwrite: whether an earlier export in `out` is replaced.

    >>> nanogrove.export("runs/mine", "transformers", "exported/with-a-card").name
    'with-a-card'
    """
    return write_export(Path(run), to, None if out is None else Path(out), dtype, license, overwrite)


def to_transformers(run: str | Path, out: str | Path) -> str:
    """Writes a run's best model as a folder that `transformers` loads; returns its family there, as in `llama`.

    Its tokenizer and its chat template, where it has one, go with it, and a model card.
    Raises PresetError for a combination of settings that no family of `transformers` has.

    >>> nanogrove.to_transformers("runs/mine", "exported/mine")
    'llama'
    """
    return family_of(import_model(export(run, "transformers", out))[0])


def from_transformers(folder: str | Path) -> LanguageModel:
    """The model of a folder that `transformers` wrote: GPT-2, Llama, Qwen3 or NanoChat, with its tokenizer.json.

    A folder that `peft` wrote is the model that its adapter names, with that merged into it.

    Its weights, in one file or in shards, are cast to float32. `chat` answers by its `chat_template.jinja`, or
    else by the `chat_template` in its `tokenizer_config.json`.

    Raises CheckpointError for what nanogrove cannot express; nothing is left out silently, and no code is run.

    >>> family = nanogrove.to_transformers("runs/mine", "exported/again")
    >>> nanogrove.from_transformers("exported/again").generate("Once upon", tokens=5).startswith("Once upon")
    True
    """
    read = read_transformers(Path(folder))
    model = GPT(read.config)
    load_weights(model, read.weights, Path(folder))
    return LanguageModel(model, read.tokenizer)
