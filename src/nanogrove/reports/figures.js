"use strict";
// Draws the figures of a page by plotly, from the data block of each: `figuresOf` reads them, `draw` draws one.

// Plotly reads tags, links among them, and entities in every text: names are data and have to stay what they are.
const literal = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function theme() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  const colours = [0, 1, 2, 3, 4, 5].map((number) => value(`colour-${number}`));
  return { ink: value("ink"), quiet: value("quiet"), rule: value("rule"), page: value("page"), colours };
}

// Which lines are shown: a faint one goes with the next, which has the switch.
function shown({ spec, switches }) {
  let next = 0;
  return spec.lines.map(({ style }) => {
    const button = switches[style === "faint" ? next : next++];
    return !button || button.getAttribute("aria-pressed") === "true";
  });
}

function traces(figure, { colours }) {
  const { spec } = figure, visible = shown(figure);
  return spec.lines.flatMap(({ name, style, x, y, low, high, width }, number) => {
    const color = colours[spec.colours[number] % colours.length], few = x.length < 30;
    const common = { x, visible: visible[number], name: literal(name) };
    if (style === "bars") return [{ ...common, y, width, type: "bar", marker: { color } }];
    if (style === "points") return [{ ...common, y, mode: "markers", marker: { color, size: 7 } }];
    const quiet = { ...common, mode: "lines", hoverinfo: "skip" };
    if (style === "faint") return [{ ...quiet, y, line: { color: color + "55", width: 1 } }];
    const band = { ...quiet, line: { width: 0 } };
    const dash = style === "reference" ? "dot" : spec.colours[number] < colours.length ? "solid" : "dash";
    return [
      ...(low ? [{ ...band, y: low }, { ...band, y: high, fill: "tonexty", fillcolor: color + "33" }] : []),
      { ...common, y, mode: few && style !== "reference" ? "lines+markers" : "lines",
        line: { color, width: few ? 2 : 1.6, dash }, marker: { color, size: 5 } },
    ];
  });
}

function heat({ heat, x, y }, { rule, colours }, font) {
  const few = heat.x.length <= 16 && heat.y.length <= 18;
  const tip = `${literal(x)} %{x}, ${literal(y)} %{y}: %{z:.3f}<extra></extra>`;
  return [{ type: "heatmap", ...heat, zmin: 0, zmax: 1, xgap: 1, ygap: 1, hoverongaps: false, hovertemplate: tip,
    texttemplate: few ? "%{z:.2f}" : "", textfont: { size: 10 }, colorscale: [[0, rule], [1, colours[0]]],
    colorbar: { thickness: 8, outlinewidth: 0, tickfont: font } }];
}

// Rows from the top down, of each the points above its mean.
function forest({ forest }, { colours }) {
  const of = (name) => forest.map((row) => row[name]), rows = [...forest.keys()], lift = 0.22;
  const reach = (side, sign) => forest.map((row) => (row[side] === null ? 0 : sign * (row[side] - row.mean)));
  const color = colours[0];
  return [
    { x: of("points").flat(), y: forest.flatMap(({ points }, row) => points.map(() => row - lift)), mode: "markers",
      hoverinfo: "skip", marker: { color: color + "77", size: 6 } },
    { x: of("mean"), y: rows, mode: "markers", hoverinfo: "text", text: of("described").map(literal),
      marker: { color, size: 10, symbol: "diamond" },
      error_x: { type: "data", symmetric: false, array: reach("high", 1), arrayminus: reach("low", -1), color,
        thickness: 2, width: 5 } },
  ];
}

// Whole numbers in a short range have a tick each. Of `pixels` a label of so many characters takes `size`.
function ticks(values, log, pixels, size) {
  const known = values.filter((value) => value !== null && (value > 0 || !log));
  const least = known.reduce((a, b) => Math.min(a, b), Infinity), most = known.reduce((a, b) => Math.max(a, b), -Infinity);
  if (log) return most > least ? logTicks(least, most, pixels, size) : { nticks: 6 };
  return known.every(Number.isInteger) && most - least <= 8 ? { dtick: 1 } : { nticks: Math.max(2, Math.min(6, Math.floor(pixels / size(5)))) };
}

// The densest of some sets of round numbers whose labels do not touch; plotly's own do.
function logTicks(least, most, pixels, size) {
  const decades = Math.log10(most / least), low = least * 0.97, high = most * 1.03;
  const steps = [5, 4, 3, 2].map((count) => {
    const rough = (most - least) / count, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((times) => times * unit >= rough * 0.999);
    return [...Array(12).keys()].map((n) => Number(((Math.ceil(low / step) + n) * step).toPrecision(12)));
  });
  const every = (digits, stride = 1) => {
    const first = stride * Math.floor(Math.log10(low) / stride), last = Math.log10(high), found = [];
    for (let power = first; power <= last; power += stride) found.push(...digits.map((digit) => Number(`${digit}e${power}`)));
    return found;
  };
  const strides = [1, 2, 4, 6, 12, 24, 48, 96].map((stride) => every([1], stride));
  const sets = [...(decades < 0.6 ? steps : []), every([1, 2, 5]), every([1, 3]), ...strides];
  const within = sets.map((set) => set.filter((value) => value >= low && value <= high));
  const width = (value) => size(short(value).length) / 2;
  const apart = (set) => set.slice(1).every((value, n) => (Math.log10(value / set[n]) / decades) * pixels >= width(value) + width(set[n]));
  const chosen = within.find((set) => set.length <= 9 && apart(set)) ?? [];
  return { tickvals: chosen, ticktext: chosen.map((value) => short(value).replace(/\^(.*)/, "<sup>$1</sup>")) };
}

// A round number as axes say it: 0.05, 2,000 as 2k, 3·10^−5.
function short(value) {
  const power = Math.floor(Math.log10(value) + 1e-9);
  if (power < -3 || power > 14) {
    const digit = Number((value / 10 ** power).toPrecision(2));
    return `${digit === 1 ? "" : `${digit}·`}10^${power < 0 ? "−" : ""}${Math.abs(power)}`;
  }
  const group = Math.max(0, Math.floor(power / 3));
  return `${Number((value / 1000 ** group).toPrecision(3))}${["", "k", "M", "G", "T"][group]}`;
}

function layout({ spec, place }, { ink, quiet, rule, page }, font) {
  const clear = "rgba(0,0,0,0)", all = (name) => spec.lines.flatMap((line) => line[name]);
  const axis = (title, kind, more) => ({ gridcolor: rule, linecolor: rule, zeroline: false, tickfont: font,
    automargin: true, type: kind, title: { text: literal(title), font, standoff: 8 }, ...more });
  const line = (x) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", layer: "below",
    line: { color: quiet, width: 1.5, dash: "dash" } });
  const common = { paper_bgcolor: clear, plot_bgcolor: clear, showlegend: false,
    font: { color: ink, family: "system-ui, sans-serif", size: 12 }, margin: { l: 44, r: 12, t: 10, b: 36 },
    hoverlabel: { bgcolor: page, bordercolor: rule, font: { color: ink }, namelength: 40 } };
  if (spec.heat) return { ...common, hovermode: "closest",
    xaxis: axis(spec.x, "category", { nticks: 12 }), yaxis: axis(spec.y, "category", { nticks: 12 }) };
  const at0 = { rangemode: "tozero", zeroline: true, zerolinecolor: quiet, zerolinewidth: 1.5 };
  if (spec.forest) return { ...common, hovermode: "closest",
    xaxis: axis(spec.x, "linear", { ...at0, nticks: 6 }),
    yaxis: axis("", "linear", { tickvals: [...spec.forest.keys()], ticktext: spec.forest.map(({ label }) => literal(label)),
      range: [spec.forest.length - 0.4, -0.6], showgrid: false }) };
  const [x, y] = [all("x"), all("y")];
  // 15M tokens read well, a learning rate of 300µ does not.
  const large = y.some((value) => value >= 1000);
  const wide = Math.max((place.clientWidth || 400) - 70, 100), tall = Math.max((place.clientHeight || 260) - 60, 60);
  const across = (characters) => 6.5 * characters + 12, up = () => 22;
  return { ...common, uirevision: "kept on a change of theme", hovermode: "x unified", bargap: 0,
    shapes: spec.marks.map(line),
    xaxis: axis(spec.x, spec.log_x ? "log" : "linear", { ...ticks(x, spec.log_x, wide, across), exponentformat: "SI", hoverformat: ",.6~g" }),
    yaxis: axis(spec.y, spec.log_y ? "log" : "linear", { ...ticks(y, spec.log_y, tall, up), exponentformat: large ? "SI" : "power", hoverformat: ".4~g",
      ...(spec.zero ? at0 : {}) }) };
}

function draw(figure) {
  const colours = theme(), font = { color: colours.quiet, size: 11 };
  const { spec, place } = figure;
  if (spec.forest) place.style.height = `${80 + 42 * spec.forest.length}px`;
  const data = spec.heat ? heat(spec, colours, font) : spec.forest ? forest(spec, colours) : traces(figure, colours);
  Plotly.react(place, data, layout(figure, colours, font), { responsive: true, displayModeBar: false });
}

// Draws again in another theme, or width of the window.
function whenLooksChange(redraw) {
  let timer = 0;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(redraw, 150);
  });
}

function figuresOf(root) {
  const figures = [...root.querySelectorAll("figure")].map((figure) => ({
    place: figure.querySelector("div"),
    switches: [...figure.querySelectorAll("figure > ul button")],
    spec: JSON.parse(figure.querySelector("script").textContent),
  }));
  for (const figure of figures) {
    for (const button of figure.switches) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        draw(figure);
      });
    }
  }
  return figures;
}
