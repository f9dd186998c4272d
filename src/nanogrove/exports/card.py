"""The model card: README.md of an export, with a head in YAML that the hub reads.

Names of runs and of data may be a stranger's: in the head they are strings in JSON, which YAML reads as such, and in
the text every character that Markdown or HTML reads as more than itself is escaped.
"""

import json
import re
from collections.abc import Iterable

from nanogrove.exports.contract import DTYPES, Dtype, Format
from nanogrove.exports.source import History, Source
from nanogrove.model.size import parameter_count
from nanogrove.record.measures import measured
from nanogrove.record.reading import times
from nanogrove.reports.sections.overview import key_figure
from nanogrove.reports.values import duration, escaped, finite, short

LONGEST_TEXT = 200  # characters of a name
MARKDOWN = re.compile(r"([\\`*_{}\[\]#+!|~$^=:@/]|(?<=www)\.)", re.IGNORECASE)  # with what becomes a link unasked
UNKNOWN_LICENSE = "unknown"  # as the hub calls it

Row = tuple[str, ...]


def model_card(source: Source, chosen: Format, dtype: Dtype, license_name: str) -> str:
    """The text of README.md."""
    parts = [
        _head(source, chosen, license_name),
        f"# {plain(source.name)}",
        _summary(source, chosen, dtype),
        *_figures(source),
        f"## How to use it\n\n{chosen.usage(source, dtype)}",
        f"## Licence\n\n{_license(license_name)}",
    ]
    return "\n\n".join(parts) + "\n"


def plain(value: object) -> str:
    """Any value as one line of Markdown that shows it and does nothing else."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    text = " ".join(text.split())
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}…"
    return escaped(MARKDOWN.sub(r"\\\1", text))


def _head(source: Source, chosen: Format, license_name: str) -> str:
    """The front matter, each of whose values is JSON."""
    kind = ["conversational"] if source.answer_end is not None else []
    values = {
        "license": license_name,
        "library_name": chosen.library,
        "pipeline_tag": "text-generation",
        "tags": ["nanogrove", *kind],
    }
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"])


def _summary(source: Source, chosen: Format, dtype: Dtype) -> str:
    config, count = source.config, parameter_count(source.config)
    return (
        f"A language model of {count:,} parameters, exported by nanogrove for {chosen.title} as {dtype}: "
        f"{DTYPES[dtype]}. It has {config.n_layer} layers of width {config.n_embd} with {config.n_head} heads each, a "
        f"vocabulary of {config.vocab_size:,} tokens, and reads {config.block_size:,} tokens at most."
    )


def _figures(source: Source) -> list[str]:
    """What is known of how good the model is, what it learned from, and how."""
    if source.history is not None:
        return _of_run(source.history)
    if not source.state:
        return ["## Training\n\nThe folder that it was read from says nothing of its training."]
    rows = [("steps", f"{source.state['step']:,}"), ("tokens", short(finite(source.state["tokens"])))]
    return [f"## Training\n\n{_table(('', ''), rows)}"]


def _of_run(history: History) -> list[str]:
    run, result = history.run, history.run.result()
    start, step, end = (run.last(kind) for kind in ("start", "step", "end"))
    measures = [each for each in measured(result) if each.headline and not each.by]
    figures = [tuple(map(plain, key_figure(measure, result, bool(run.of("end"))))) for measure in measures]
    data = start.values.get("data")
    counts = data.items() if isinstance(data, dict) else ()
    numbers = [(plain(str(name).replace("_", " ")), short(finite(n))) for name, n in counts if finite(n) is not None]
    made_of = [("kind", plain(history.data)), *(("source", plain(name)) for name in history.sources)]
    versions = start.values.get("versions")
    trained = [
        ("method", start.values.get("method")),
        ("seed", start.values.get("seed")),
        ("steps", f"{max(step.step, end.step):,}"),
        ("tokens", short(finite({**step.values, **end.values}.get("tokens")))),
        ("time", duration(finite({**times(step), **times(end)}.get("seconds")))),
        ("device", start.values.get("device")),
        ("precision", start.values.get("precision")),
        ("nanogrove", versions.get("nanogrove") if isinstance(versions, dict) else None),
    ]
    return [
        f"## How good it is\n\n{_table(('measure', 'figure', 'about'), figures)}",
        f"## Data\n\n{_table(('', ''), [*made_of, *numbers])}",
        f"## Training\n\n{_table(('', ''), [(name, plain(value)) for name, value in trained if value is not None])}",
    ]


def _table(head: Row, rows: Iterable[Row]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _license(name: str) -> str:
    if name == UNKNOWN_LICENSE:
        return (
            "Nobody has said yet under which licence this model may be used. Who publishes it puts the name into the "
            "head of this file, and takes what the licences of the data ask for into account."
        )
    return f"{plain(name)}, as who exported it says."
