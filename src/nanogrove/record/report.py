"""The report of a run: one HTML page of pictures, made from a run folder alone.

The page is whole in itself: no network, no fonts or scripts from elsewhere, and a Content-Security-Policy
that allows none. What a run says (names, prompts, samples, presets) is text of unknown origin, so it enters
the page in two ways only: escaped by `_text`, or as JSON in a data block, which no browser executes. Only two
scripts may run, plotly's and `_DRAW`; the policy names them by their hashes.

A new picture is one function from `Run` to HTML and one line in `SECTIONS`; `plot` and `line` make figures.
"""

import base64
import hashlib
import html
import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from nanogrove.errors import RunError
from nanogrove.record.events import Event, read_events

POINTS = 2000  # drawn for one line; more cannot be told apart on a screen and makes the page slow
OLDER_SAMPLES = 50  # kept in the page besides the latest
UNKNOWN = "n/a"


@dataclass(frozen=True, slots=True)
class Run:
    """What a run folder says: its name, its resolved preset, and its events by kind, each kind in order."""

    name: str
    preset: dict[str, Any]
    events: dict[str, list[Event]]

    def of(self, kind: str) -> list[Event]:
        """All events of one kind, oldest first; empty when there is none."""
        return self.events.get(kind, [])

    def last(self, kind: str) -> Event:
        """The latest event of one kind, or an empty one at step 0 when there is none."""
        return self.of(kind)[-1] if self.of(kind) else Event(kind, 0)


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path; an older report is replaced whole.

    Works for finished runs and for unfinished ones. Raises RunError when the folder holds no run, or one
    whose record is damaged.
    """
    page = _page(read_run(run))
    path = run / "report.html"
    aside = run / "report.html.part"
    # JSON can carry half of a surrogate pair and UTF-8 cannot; one bad character must not cost the report.
    aside.write_bytes(page.encode("utf-8", errors="replace"))
    os.replace(aside, path)
    return path


def read_run(run: Path) -> Run:
    """The record in a run folder. Raises RunError when there is no run, or when its record is damaged."""
    for name in ("preset.json", "events.jsonl"):
        if not (run / name).is_file():
            raise RunError(f"{run}: no run is here ({name} is missing); give the folder of a run, as in runs/NAME")
    try:
        preset = json.loads((run / "preset.json").read_text(encoding="utf-8"))
    except ValueError:
        preset = None
    if not isinstance(preset, dict):
        raise RunError(f"{run / 'preset.json'}: not a JSON object; restore the file, or train the run again")
    events: dict[str, list[Event]] = {}
    for event in read_events(run / "events.jsonl"):
        if not isinstance(event.kind, str) or not isinstance(event.step, int):
            raise RunError(f"{run / 'events.jsonl'}: an event has no kind or step; the record is damaged")
        events.setdefault(event.kind, []).append(event)
    start = events["start"][0].values if "start" in events else {}
    return Run(str(start.get("name") or run.resolve().name), preset, events)


# Sections, in the order of the page.


def headline(run: Run) -> str:
    """Title, how the run was made, and one line of key figures."""
    start, step, end = (run.last(kind) for kind in ("start", "step", "end"))
    finished = bool(run.of("end"))
    result = {**(_validation(run) or [end])[-1].values, **end.values}
    figures = {
        "validation loss" if finished else "validation loss so far": _quantity(result.get("loss")),
        "bits per byte": _quantity(result.get("bits_per_byte")),
        "training tokens": _short(_finite({**step.values, **end.values}.get("tokens"))),
        "training time": _duration(_finite({**_time(step), **_time(end)}.get("seconds"))),
        "parameters": _short(_finite(start.values.get("parameters"))),
    }
    cells = "".join(f"<div><dt>{label}</dt><dd>{_text(value)}</dd></div>" for label, value in figures.items())
    made = [str(start.values[key]) for key in ("method", "device", "precision") if start.values.get(key)]
    made += [f"seed {start.values['seed']}"] if "seed" in start.values else []
    made += [f"{max(step.step, end.step):,} steps"]
    badge = "" if finished else ' <span class="badge">unfinished</span>'
    return f'<h1>{_text(run.name)}{badge}</h1><p class="made">{_text(", ".join(made))}</p><dl>{cells}</dl>'


def curves(run: Run) -> str:
    """Loss over tokens and over time, then learning rate, gradient norm and throughput over tokens."""
    steps, evaluations = run.of("step"), _validation(run)
    if not steps:
        return "<h2>Curves</h2><p>No training step is recorded yet.</p>"

    def over(events: Sequence[Event], name: str) -> list[Any]:
        return [event.values.get(name) for event in events]

    def clock(events: Sequence[Event], name: str) -> list[Any]:
        return [_time(event).get(name) for event in events]

    tokens, seen = over(steps, "tokens"), over(evaluations, "seen")
    train, validation = over(steps, "loss"), over(evaluations, "loss")
    by_tokens = [*line("train", tokens, train), *line("validation", seen, validation)]
    by_time = [
        *line("train", clock(steps, "seconds"), train),
        *line("validation", clock(evaluations, "seconds"), validation),
    ]
    wide = [plot("Loss over tokens", "tokens", by_tokens), plot("Loss over time", "seconds", by_time)]
    small = [
        plot("Learning rate", "tokens", line("lr", tokens, over(steps, "lr"))),
        plot("Gradient norm", "tokens", line("gradient norm", tokens, over(steps, "grad_norm"))),
        plot("Tokens per second", "tokens", line("tokens/s", tokens, clock(steps, "tokens_per_second"))),
    ]
    note = '<p class="made">Lines are medians over the population; bands reach from lowest to highest.</p>'
    rows = "".join(f'<div class="row">{"".join(row)}</div>' for row in (wide, small))
    return f"<h2>Curves</h2>{note if any(isinstance(loss, list) for loss in train) else ''}{rows}"


def samples(run: Run) -> str:
    """Text written by the model: that of the latest step in view, the older ones folded away."""
    found = run.of("sample")
    if not found:
        return ""
    latest = [event for event in found if event.step == found[-1].step]
    older = [event for event in found if event.step != found[-1].step][::-1]
    body = "".join(_sample(event) for event in latest)
    if older:
        left_out = len(older) - OLDER_SAMPLES
        more = f"<p>{left_out:,} more are in events.jsonl.</p>" if left_out > 0 else ""
        folded = "".join(_sample(event) for event in older[:OLDER_SAMPLES])
        body += f"<details><summary>{len(older):,} from earlier steps</summary>{folded}{more}</details>"
    return f"<h2>Samples</h2>{body}"


def _sample(event: Event) -> str:
    prompt = event.values.get("prompt")
    caption = f"Step {event.step:,}" + (f", prompt: {_text(prompt)}" if prompt else "")
    text = _text(event.values.get("text", ""))
    # The parser drops one newline right after <pre>, so the text's own first newline needs one to be dropped.
    return f'<p class="made">{caption}</p><pre dir="auto">\n{text}</pre>'


def preset(run: Run) -> str:
    """The resolved preset: what to train to have this run again."""
    pretty = _text(json.dumps(run.preset, indent=2, ensure_ascii=False))
    return f"<h2>Preset</h2><details><summary>preset.json, resolved</summary><pre>\n{pretty}</pre></details>"


def machine(run: Run) -> str:
    """Versions, machine and data, as the start event tells them."""
    start = run.last("start").values
    groups = {key.capitalize(): start.get(key) for key in ("versions", "machine", "data")}
    groups["Run"] = {key: start[key] for key in ("device", "precision", "compile", "vocabulary") if key in start}
    filled = {title: group for title, group in groups.items() if isinstance(group, dict) and group}
    tables = "".join(_table(title, group) for title, group in filled.items())
    return f'<h2>Versions and machine</h2><div class="row">{tables}</div>' if tables else ""


def _table(title: str, group: dict[str, Any]) -> str:
    cells = ((_text(key.replace("_", " ")), _text(_cell(value))) for key, value in group.items() if value is not None)
    rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in cells)
    return f"<table><caption>{title}</caption>{rows}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


SECTIONS: tuple[Callable[[Run], str], ...] = (headline, curves, samples, preset, machine)


# Figures.


def plot(title: str, x_label: str, lines: Iterable[dict[str, Any]]) -> str:
    """A figure of the lines that `line` made, over one axis; empty when there are none."""
    drawn = list(lines)
    if not drawn:
        return ""
    spec = json.dumps({"x": x_label, "lines": drawn}, allow_nan=False, separators=(",", ":"))
    # A data block still ends at the first "</script", and "<!--" changes how it is read: no "<" may be left.
    spec = spec.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    caption = _text(title)
    return (
        f'<figure><figcaption>{caption}</figcaption><div role="img" aria-label="{caption}"></div>'
        f'<script type="application/json">{spec}</script></figure>'
    )


def line(name: str, x: Sequence[Any], y: Sequence[Any]) -> list[dict[str, Any]]:
    """One line for `plot`, thinned to at most POINTS points; none when there is nothing to draw.

    `x` and `y` are of equal length. A `y` that is None, not finite or not a number leaves a gap; a point
    without `x` is left out. Where `y` holds lists, one number per population member, the line is their median
    and carries a band from the lowest to the highest.
    """
    placed = [(at, _spread(value)) for at, value in zip(map(_finite, x), y, strict=True) if at is not None]
    if all(middle is None for _, (_, middle, _) in placed):
        return []
    kept = [placed[i] for i in _thinned([middle for _, (_, middle, _) in placed])]
    drawn = {"name": name, "x": [at for at, _ in kept], "y": [spread[1] for _, spread in kept]}
    if any(isinstance(value, list) for value in y):
        drawn["low"] = [spread[0] for _, spread in kept]
        drawn["high"] = [spread[2] for _, spread in kept]
    return [drawn]


def _thinned(y: Sequence[float | None]) -> list[int]:
    """Which points to draw: the ends, and the lowest, the highest and one gap of each of equal stretches."""
    if len(y) <= POINTS:
        return list(range(len(y)))
    stretches = (POINTS - 2) // 3
    kept = {0, len(y) - 1}
    for n in range(stretches):
        stretch = range(n * len(y) // stretches, (n + 1) * len(y) // stretches)
        by_value = [(value, i) for i in stretch if (value := y[i]) is not None]
        if by_value:
            kept |= {min(by_value)[1], max(by_value)[1]}
        kept.update([i for i in stretch if y[i] is None][:1])
    return sorted(kept)


# Values.


def _validation(run: Run) -> list[Event]:
    return [event for event in run.of("eval") if event.values.get("split", "validation") == "validation"]


def _time(event: Event) -> dict[str, Any]:
    return event.time if isinstance(event.time, dict) else {}


def _finite(value: Any) -> float | None:
    """A finite number as it is, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -1e300 < value < 1e300 else None


def _spread(value: Any) -> tuple[float | None, float | None, float | None]:
    """Lowest, median and highest of a population's values; of one value thrice that; None without any."""
    numbers = [n for n in map(_finite, value if isinstance(value, list) else [value]) if n is not None]
    return (min(numbers), statistics.median(numbers), max(numbers)) if numbers else (None, None, None)


def _quantity(value: Any) -> str:
    low, middle, high = _spread(value)
    if low is None or middle is None or high is None:
        return UNKNOWN
    return f"{middle:.4f}" if low == high else f"{middle:.4f} ({low:.4f} to {high:.4f})"


def _short(value: float | None) -> str:
    """A count in three digits: 950, 12.3 k, 4.56 M."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _text(value: Any) -> str:
    """Any value as text that is safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)


# The page.


def _page(run: Run) -> str:
    # Browsers turn CR LF into LF before they compare a script with its hash.
    plotly = get_plotlyjs().replace("\r\n", "\n")
    hashes = [hashlib.sha256(code.encode()).digest() for code in (plotly, _DRAW)]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    # Plotly sets styles inline; a style can draw nonsense but, with no network, tell nobody anything.
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    body = "".join(f"<section>{part}</section>" for section in SECTIONS if (part := section(run)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(run.name)}</title><style>{_STYLE}</style></head>\n<body><main>{body}</main>"
        f"<script>{plotly}</script><script>{_DRAW}</script></body></html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c1e21; --quiet: #646a73; --rule: #e3e5e8;
  --soft: #f5f6f7; --first: #0b6bb5; --second: #d4560a; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --ink: #e4e6e9; --quiet: #989ea8;
  --rule: #2e3238; --soft: #1e2125; --first: #5db4f2; --second: #f0a04b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; font-weight: 650; }
h2 { font-size: 1.1rem; font-weight: 650; margin: 2.5rem 0 .75rem; }
.badge { font-size: .8rem; font-weight: 500; vertical-align: middle; padding: .15rem .55rem;
  border: 1px solid; border-radius: 1rem; color: var(--second); }
.made, summary { color: var(--quiet); font-size: .9rem; margin: .3rem 0; }
dl { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 1.25rem 0 0; padding: .9rem 0;
  border: solid var(--rule); border-width: 1px 0; }
dt { color: var(--quiet); font-size: .8rem; }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.row { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); }
.row + .row { margin-top: 1.25rem; }
figure { margin: 0; min-width: 0; }
figure div[role] { height: 290px; }
.row + .row div[role] { height: 210px; }
figcaption, caption { font-size: .9rem; font-weight: 600; text-align: left; }
pre { margin: .25rem 0 1rem; padding: .8rem 1rem; background: var(--soft); border-radius: 6px;
  font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; }
summary { cursor: pointer; }
table { border-collapse: collapse; font-size: .85rem; align-self: start; }
th, td { text-align: left; font-weight: 400; padding: .3rem 1rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
th { color: var(--quiet); width: 9rem; }
"""

_DRAW = """
(() => {
  const figures = [...document.querySelectorAll("figure")].map(figure => ({
    place: figure.querySelector("div"), spec: JSON.parse(figure.querySelector("script").textContent) }));
  const style = getComputedStyle(document.documentElement);
  const clear = "rgba(0,0,0,0)";

  function draw() {
    const [ink, quiet, rule, page, ...ways] = ["ink", "quiet", "rule", "page", "first", "second"]
      .map(name => style.getPropertyValue("--" + name).trim());
    const small = { color: quiet, size: 11 };
    const axis = { gridcolor: rule, linecolor: rule, zeroline: false, tickfont: small, automargin: true,
      nticks: 6 };
    for (const { place, spec } of figures) {
      const traces = spec.lines.flatMap(({ name, x, y, low, high }, i) => {
        const color = ways[i % ways.length], few = x.length < 60;
        const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        const upper = { ...edge, y: high, fill: "tonexty", fillcolor: color + "33" };
        return [...(low ? [{ ...edge, y: low }, upper] : []), { x, y, name,
          mode: few ? "lines+markers" : "lines", line: { color, width: few ? 2 : 1.3 },
          marker: { color, size: 5 } }];
      });
      const legend = spec.lines.length > 1;
      // 15M tokens read well, a learning rate of 300µ does not.
      const large = spec.lines.some(({ y }) => y.some(value => value >= 1000));
      const layout = { paper_bgcolor: clear, plot_bgcolor: clear, uirevision: "kept on a change of theme",
        font: { color: ink, family: "system-ui, sans-serif", size: 12 },
        margin: { l: 44, r: 8, t: legend ? 26 : 8, b: 36 },
        xaxis: { ...axis, exponentformat: "SI", title: { text: spec.x, font: small, standoff: 6 } },
        yaxis: { ...axis, exponentformat: large ? "SI" : "e" },
        legend: { traceorder: "normal", orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        showlegend: legend, hovermode: "x unified",
        hoverlabel: { bgcolor: page, bordercolor: rule, font: { color: ink } } };
      Plotly.react(place, traces, layout, { responsive: true, displayModeBar: false });
    }
  }
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
"""
