"use strict";
// The pages of a run and of several: draws their figures, adds a table to each, and, of a run, replaces sections as they
// come by server-sent events.
(() => {
  const live = document.getElementById("live");
  const figures = new Map(); // by section
  const waiting = new Map(); // HTML of sections in which somebody is at work, by id

  function show(section) {
    const drawn = figuresOf(section);
    figures.set(section, drawn);
    for (const figure of drawn) {
      draw(figure);
      if (figure.spec.lines.length) addTable(figure);
    }
  }

  // The numbers of a figure, and files of it, made once somebody asks for them.
  function addTable({ place, spec }) {
    const details = document.createElement("details"), summary = document.createElement("summary");
    summary.textContent = "Table and files";
    details.append(summary);
    place.parentElement.append(details);
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length < 2) details.append(files(place, spec), table(spec));
    });
  }

  function files(place, spec) {
    const row = document.createElement("p"), title = place.parentElement.querySelector("figcaption").textContent;
    const name = title.replace(/\W+/g, "-");
    const page = getComputedStyle(document.documentElement).getPropertyValue("--page").trim();
    const size = { width: 1200, height: 700 };
    const picture = (format) => Plotly.toImage({ data: place.data, layout: { ...place.layout, paper_bgcolor: page } }, { format, ...size });
    const csv = () => `data:text/csv;charset=utf-8,${encodeURIComponent(numbers(spec))}`;
    for (const [format, address] of [["png", () => picture("png")], ["svg", () => picture("svg")], ["csv", csv]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "file";
      button.textContent = format.toUpperCase();
      button.addEventListener("click", async () => {
        const link = document.createElement("a");
        link.href = await address();
        link.download = `${name}.${format}`;
        link.click();
      });
      row.append(button, " ");
    }
    return row;
  }

  // A cell that begins as a formula does would be run by a spreadsheet.
  function numbers(spec) {
    const cell = (value) => (typeof value === "string" ? `"${value.replace(/^[=+\-@\t\r]/, "'$&").replace(/"/g, '""')}"` : value ?? "");
    const lines = spec.lines.flatMap(({ name, x, y }) => x.map((at, n) => [name, at, y[n]]));
    return [["line", spec.x, spec.y], ...lines].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }

  function table(spec) {
    const box = document.createElement("div"), table = document.createElement("table");
    box.className = "wide numbers";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Numbers of the figure");
    const row = (cells, tag) => {
      const line = document.createElement("tr");
      for (const text of cells) {
        const cell = document.createElement(tag);
        cell.textContent = text ?? "";
        if (tag === "th") cell.scope = "col";
        line.append(cell);
      }
      return line;
    };
    table.append(row(["line", spec.x, spec.y], "th"));
    for (const { name, style, x, y } of spec.lines) {
      if (style !== "faint") x.forEach((at, n) => table.append(row([name, at, y[n]], "td")));
    }
    box.append(table);
    return box;
  }

  // What was opened and switched off stays so when a section is replaced.
  function state(section) {
    return {
      open: [...section.querySelectorAll("details")].map((each) => each.open),
      off: [...section.querySelectorAll("figure > ul button")].map((each) => each.getAttribute("aria-pressed")),
    };
  }

  function replace(section, html) {
    const before = state(section);
    for (const { place } of figures.get(section) ?? []) Plotly.purge(place);
    section.innerHTML = html; // which the server has escaped
    const after = section.querySelectorAll("figure > ul button");
    if (after.length === before.off.length) after.forEach((each, n) => each.setAttribute("aria-pressed", before.off[n]));
    show(section);
    const details = section.querySelectorAll("details");
    if (details.length === before.open.length) details.forEach((each, n) => { each.open = before.open[n]; });
  }

  function update({ order, sections }) {
    for (const [id, html] of Object.entries(sections)) {
      let section = document.getElementById(id);
      if (!section) {
        section = document.createElement("section");
        section.id = id;
        live.append(section);
      }
      if (section.contains(document.activeElement)) waiting.set(section, html);
      else replace(section, html);
    }
    if (!order) return;
    for (const section of [...live.children]) if (!order.includes(section.id)) section.remove();
    order.forEach((id, n) => {
      const section = document.getElementById(id);
      if (section && live.children[n] !== section) live.insertBefore(section, live.children[n] ?? null);
    });
  }

  live?.addEventListener("focusout", () => setTimeout(() => {
    for (const [section, html] of waiting) {
      if (section.contains(document.activeElement)) continue;
      waiting.delete(section);
      replace(section, html);
    }
  }));

  // A browser has six connections to a server, for all of its tabs: one that nobody looks at needs none.
  let source = null;
  function listen() {
    if (!live.dataset.events) return;
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) {
      source = new EventSource(live.dataset.events);
      source.addEventListener("sections", (message) => update(JSON.parse(message.data)));
    }
  }

  if (!live) return;
  live.addEventListener("sections", ({ detail }) => update(detail)); // of a study, from list.js
  for (const section of live.children) show(section);
  whenLooksChange(() => [...figures.values()].flat().forEach(draw));
  document.addEventListener("visibilitychange", listen);
  listen();
})();
