"""The report that is the model: one HTML file that shows a run and in which its best model writes text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogrove.errors import CheckpointError, PresetError
from nanogrove.exports.browser import WEIGHTS, Weights, check, model_json, stored_bytes, tokenizer_table
from nanogrove.exports.browser_grammar import grammar_table
from nanogrove.exports.source import Source, read_source
from nanogrove.memory import shown_bytes
from nanogrove.model.members import unstack
from nanogrove.record.folder import refuse_link
from nanogrove.record.reading import Run, read_run
from nanogrove.reports.page import html_page
from nanogrove.reports.report import drawn_sections, write_page
from nanogrove.reports.writer import writer
from nanogrove.synthetic.corpus import is_grammar
from nanogrove.train.checkpoint import load_latest
from nanogrove.waits import waiting

NAME = "report-with-model.html"
MB = 1_000_000
REPORT_MB = 2  # of a page without its model
MB_UNASKED = 20
NO_GRAMMAR = "its grammar is too large for a page, which shows the model's distribution alone"
MOST_MB = 400  # of the model: a string of a browser holds little more


def write_model_report(run: Path, weights: str, large: bool, announce: Callable[[str], None]) -> Path:
    """Writes `report-with-model.html` into a run folder and returns its path; an older one is replaced whole.

    Raises PresetError for a format of weights that there is not, for a page above 20 MB that was not asked for as
    `large`, and for a model that a page cannot compute; RunError and CheckpointError for a run that cannot be read.

    Args:
        run: The run folder.
        weights: `float32`, `float16` or `int8`.
        large: Whether the page may have more than 20 MB.
        announce: Takes lines that say how large the page will be, before it is made, and what it leaves out.
    """
    kind = next((known for known in WEIGHTS if known == weights), None)
    if kind is None:
        raise PresetError(f"--weights {weights}: no such format; formats are {', '.join(WEIGHTS)}")
    refuse_link(run)
    record = read_run(run)
    _refuse_ensemble(record)
    with waiting("reading the model"):
        source = read_source(run)
    check(source)
    grammar = grammar_table(record.preset.get("data"))
    voters = _voters(run, record, source)
    sizes = _sizes(source, grammar, len(voters))
    _check_size(sizes, kind, large)
    announce(f"a page of about {_page_size(sizes[kind])}: {_about(source, len(voters))}, in {kind}")
    if _leaves_grammar_out(record, grammar):
        announce(NO_GRAMMAR)
    with waiting("writing the page"):
        page = _page(record, source, kind, grammar, voters)
        return write_page(run, NAME, page, f"nanogrove report {run} --with-model")


def _refuse_ensemble(record: Run) -> None:
    """Raises PresetError for an ensemble, of which a page would have to compute every member."""
    method = record.preset.get("method")
    if isinstance(method, dict) and method.get("name") == "ensemble":
        raise PresetError(
            "--with-model: a page computes one model, and this is an ensemble; write the report without it"
        )


def _voters(run: Path, record: Run, source: Source) -> list[Source]:
    """The voters of a run of self-improvement, as they were last saved; none of another method.

    Raises CheckpointError where they are not models as the best one is.
    """
    method = record.preset.get("method")
    if not isinstance(method, dict) or method.get("name") != "self_improve":
        return []
    checkpoint, _ = load_latest(run / "checkpoints")
    if checkpoint is None:
        return []
    stacked = checkpoint.model
    single = {name: tuple(weight.shape) for name, weight in source.weights.items()}
    shapes = {name: tuple(weight.shape) for name, weight in stacked.items()}
    if shapes == single:
        return []
    count = max((shape[0] for shape in shapes.values() if shape), default=0)
    if shapes != {name: (count, *shape) for name, shape in single.items()}:
        raise CheckpointError(f"{checkpoint.folder}: its voters are not models as the best one is; train anew")
    return [replace(source, weights=unstack(stacked, voter)) for voter in range(count)]


def _about(source: Source, voters: int) -> str:
    """What the model is, in words."""
    count = sum(weight.numel() for weight in source.weights.values())
    committee = f", a committee of {voters:,} such voters" if voters else ""
    return f"{count:,} parameters, a context of {source.config.block_size:,} tokens{committee}"


def _sizes(source: Source, grammar: Mapping[str, Any] | None, voters: int) -> dict[Weights, int]:
    """The bytes of weights, those of so many voters included, tokenizer and grammar, by the format of weights."""
    others = len(json.dumps([tokenizer_table(source.tokenizer, source.config.vocab_size or 0), grammar]))
    return {kind: (1 + voters) * stored_bytes(source, kind) + others for kind in WEIGHTS}


def _check_size(sizes: Mapping[Weights, int], kind: Weights, large: bool) -> None:
    """Raises PresetError for a page that is too large, or so large that it has to be asked for."""
    smaller = [other for other in WEIGHTS if WEIGHTS[other] < WEIGHTS[kind] and sizes[other] <= MOST_MB * MB]
    hints = [f"--weights {other} for {_page_size(sizes[other])}" for other in smaller]
    if sizes[kind] > MOST_MB * MB:
        hint = f"add {' or '.join(hints)}" if hints else "take the model elsewhere with `nanogrove export`"
        raise PresetError(
            f"--with-model: the model would have {shown_bytes(sizes[kind])} in {kind}, and browsers take "
            f"{MOST_MB} MB at most; {hint}"
        )
    if sizes[kind] + REPORT_MB * MB > MB_UNASKED * MB and not large:
        hint = " or ".join(["--yes to write it", *hints])
        raise PresetError(f"--with-model: the page would have {_page_size(sizes[kind])} in {kind}; add {hint}")


def _page_size(weights: int) -> str:
    return shown_bytes(weights + REPORT_MB * MB)


def _page(
    record: Run, source: Source, kind: Weights, grammar: Mapping[str, Any] | None, voters: Sequence[Source]
) -> str:
    head, *others = drawn_sections(record).values()
    about = (
        f"The run's best model is in this page: {_about(source, len(voters))}, weights in {kind}. It computes here, "
        "without a network; nothing that you type leaves the page. Point at a token to see what else was likely."
    )
    if _leaves_grammar_out(record, grammar):
        about += f" {NO_GRAMMAR.capitalize()}."
    model = model_json(source, kind, grammar, voters)
    section, addition = writer(about, _prompt(record), model, grammar is not None, len(voters))
    return html_page(record.name, [head, section, *others], addition)


def _leaves_grammar_out(record: Run, grammar: Mapping[str, Any] | None) -> bool:
    return grammar is None and is_grammar(record.preset.get("data"))


def _prompt(record: Run) -> str:
    """The prompt of the run's latest sample."""
    prompt = record.last("sample").values.get("prompt")
    return prompt if isinstance(prompt, str) else ""
