"""The page of a report: one self-contained HTML file, with its style and the script that draws its figures."""

import base64
import hashlib

from plotly.offline import get_plotlyjs

from nanogrove.reports.figures import escaped


def html_page(title: str, sections: list[str]) -> str:
    """A page of `sections`, HTML already escaped; no network, and no script but plotly's and `_DRAW`."""
    # Browsers turn CR LF into LF before they compare a script with its hash.
    plotly = get_plotlyjs().replace("\r\n", "\n")
    hashes = [hashlib.sha256(code.encode()).digest() for code in (plotly, _DRAW)]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    # Plotly sets styles inline; a style can draw nonsense but, with no network, tell nobody anything.
    # A heat map is an image that plotly makes on the spot, at a data: address.
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    body = "".join(f"<section>{part}</section>" for part in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>\n<body><main>{body}</main>"
        f"<script>{plotly}</script><script>{_DRAW}</script></body></html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c1e21; --quiet: #646a73; --rule: #e3e5e8;
  --soft: #f5f6f7; --first: #0b6bb5; --second: #d4560a; --third: #2e8b57; --fourth: #8a4fbf; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --ink: #e4e6e9; --quiet: #989ea8;
  --rule: #2e3238; --soft: #1e2125; --first: #5db4f2; --second: #f0a04b; --third: #6fce9b; --fourth: #c39bf0; } }
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
    const [ink, quiet, rule, page, ...ways] = ["ink", "quiet", "rule", "page", "first", "second", "third", "fourth"]
      .map(name => style.getPropertyValue("--" + name).trim());
    const small = { color: quiet, size: 11 };
    const axis = { gridcolor: rule, linecolor: rule, zeroline: false, tickfont: small, automargin: true,
      nticks: 6 };
    for (const { place, spec } of figures) {
      const traces = spec.lines.flatMap(({ name, x, y, low, high, reference }, i) => {
        const color = ways[i % ways.length], few = x.length < 60;
        const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        const upper = { ...edge, y: high, fill: "tonexty", fillcolor: color + "33" };
        return [...(low ? [{ ...edge, y: low }, upper] : []), { x, y, name,
          mode: few && !reference ? "lines+markers" : "lines",
          line: { color, width: few ? 2 : 1.3, dash: reference ? "dot" : i < ways.length ? "solid" : "dash" },
          marker: { color, size: 5 } }];
      });
      if (spec.heat) traces.push({ type: "heatmap", ...spec.heat, zmin: 0, zmax: 1, xgap: 1, ygap: 1,
        texttemplate: spec.heat.x.length > 16 ? "" : "%{z:.2f}", textfont: { size: 9 },
        colorscale: [[0, rule], [1, ways[0]]], colorbar: { thickness: 8, outlinewidth: 0, tickfont: small } });
      const legend = spec.lines.length > 1;
      // 15M tokens read well, a learning rate of 300µ does not.
      const large = spec.lines.some(({ y }) => y.some(value => value >= 1000));
      const layout = { paper_bgcolor: clear, plot_bgcolor: clear, uirevision: "kept on a change of theme",
        font: { color: ink, family: "system-ui, sans-serif", size: 12 },
        margin: { l: 44, r: 8, t: legend ? 26 : 8, b: 36 },
        xaxis: { ...axis, type: spec.log ? "log" : "linear", exponentformat: "SI",
          title: { text: spec.x, font: small, standoff: 6 } },
        yaxis: { ...axis, type: spec.log_y ? "log" : "linear", exponentformat: large ? "SI" : "e",
          ...(spec.heat ? { title: { text: spec.y, font: small, standoff: 6 } } : {}) },
        legend: { traceorder: "normal", orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        showlegend: legend, hovermode: spec.heat ? "closest" : "x unified",
        hoverlabel: { bgcolor: page, bordercolor: rule, font: { color: ink } } };
      Plotly.react(place, traces, layout, { responsive: true, displayModeBar: false });
    }
  }
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
"""
