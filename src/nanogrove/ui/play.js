"use strict";
// The page on which runs write. Texts of people and of models become text nodes, never HTML.
(() => {
  const at = (id) => document.getElementById(id), form = at("play");
  const LEVELS = [0.05, 0.2, 0.5, 0.8]; // of probability, between which colours change
  const panes = [...document.querySelectorAll(".side")].map((box) => {
    const part = (selector) => box.querySelector(selector);
    const [name, said, bar, text] = [".name", ".said", "progress", ".written"].map(part);
    return { box, name, said, bar, text, chosen: part(".chosen"), rows: part("tbody"), messages: [], written: [], picked: -1, answer: "", busy: false };
  });
  let control = null, start = 0; // of the text that is being written

  function element(name, content, type = "") {
    const node = document.createElement(name);
    node.textContent = content;
    if (type) node.className = type;
    return node;
  }

  const percent = (share) => (share >= 0.0995 ? `${Math.round(100 * share)}%` : `${(100 * share).toPrecision(2)}%`);
  const visible = (name) => name.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  const listed = (likeliest) => likeliest.map(([name, share]) => `${visible(name)} ${percent(share)}`).join(", ");
  const chats = () => Boolean(at("chat")?.checked);

  function say(pane, text, waits = false) {
    pane.said.textContent = text;
    pane.bar.hidden = !waits;
    pane.bar.removeAttribute("value"); // until it is known
  }

  function append(pane, event) {
    const level = LEVELS.filter((least) => event.probability >= least).length;
    const span = element("span", event.text, `token level-${level}`);
    if (!event.text) span.dataset.name = visible(event.token); // which writes nothing, or not yet
    span.dataset.number = pane.written.length;
    pane.text.append(span);
    pane.answer += event.text;
    pane.written.push({ ...event, span });
    const row = document.createElement("tr"), cells = [pane.written.length, visible(event.token), percent(event.probability), listed(event.likeliest)];
    row.append(...cells.map((cell) => element("td", cell)));
    pane.rows.append(row);
    const seconds = (performance.now() - start) / 1000;
    say(pane, `${pane.written.length} tokens, ${Math.round(pane.written.length / seconds)} per second …`);
  }

  // Shows the probability and the alternatives of one token.
  function pick(pane, number) {
    if (!pane.written[number]) return;
    pane.written[pane.picked]?.span.classList.remove("picked");
    pane.picked = number;
    const { span, token, probability, likeliest } = pane.written[number];
    span.classList.add("picked");
    pane.chosen.replaceChildren(element("strong", `${number + 1}. ${visible(token)} ${percent(probability)}`), ` The likeliest here: ${listed(likeliest)}.`);
  }

  function finish(pane, text) {
    pane.busy = false;
    say(pane, text);
    if (chats()) pane.messages.push({ role: "assistant", content: pane.answer });
  }

  function take(event) {
    const pane = panes[event.side];
    if (event.state) say(pane, event.state, true);
    if (event.share !== undefined) pane.bar.value = event.share;
    if (event.token !== undefined) append(pane, event);
    else if (event.text) {
      pane.text.append(event.text);
      pane.answer += event.text;
      say(pane, "Writing; this way of decoding has no probabilities …");
    }
    if (event.end) finish(pane, `${event.tokens} tokens; ${event.end === "stop" ? "the text has ended" : "that is as many as were asked for"}.`);
    if (event.problem) fail(pane, event.problem);
  }

  function fail(pane, text) {
    pane.busy = false;
    say(pane, text);
    pane.said.classList.add("alert");
    if (chats()) pane.messages.pop(); // so that the message can be sent again
  }

  // The body of a request: the settings of the form, which has checked them.
  function asked(names) {
    const sampling = {};
    for (const { id, value } of form.querySelectorAll(".sampling")) if (value !== "") sampling[id] = Number(value);
    const sides = names.map((run, number) => (chats() ? { run, messages: panes[number].messages } : { run }));
    return {
      sides, prompt: at("prompt").value, tokens: Number(at("tokens").value), seed: Number(at("seed").value), sampling,
      calibrated: at("calibrated").checked, lookahead: at("lookahead").value === "" ? null : Number(at("lookahead").value),
    };
  }

  function clear(pane, name) {
    Object.assign(pane, { written: [], picked: -1, answer: "", busy: true });
    if (pane.name.textContent !== name) pane.messages = [];
    pane.name.textContent = name;
    pane.box.hidden = false;
    pane.said.classList.remove("alert");
    pane.chosen.textContent = "";
    pane.rows.replaceChildren();
    const prompt = at("prompt").value;
    if (chats()) {
      pane.messages.push({ role: "user", content: prompt });
      pane.text.replaceChildren(...pane.messages.map(({ role, content }) => element("p", content, `message ${role}`)));
    } else {
      pane.messages = [];
      pane.text.replaceChildren(element("span", prompt, "prompt"));
    }
  }

  async function read(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      lines.forEach((line) => JSON.parse(line).forEach(take));
    }
  }

  async function write(event) {
    event?.preventDefault();
    if (control || !form.reportValidity()) return;
    const names = [form.dataset.run, at("beside").value].filter(Boolean), sides = panes.slice(0, names.length);
    panes[1].box.hidden = names.length < 2;
    names.forEach((name, number) => clear(panes[number], name));
    control = new AbortController();
    start = performance.now();
    busy();
    const request = { method: "POST", body: JSON.stringify(asked(names)), signal: control.signal };
    if (chats()) at("prompt").value = "";
    try {
      const answer = await fetch("/try/write", request);
      if (answer.headers.get("content-type")?.startsWith("application/x-ndjson")) await read(answer);
      else sides.forEach((pane) => fail(pane, `The server answers ${answer.status} ${answer.statusText}; load this page again.`));
      for (const pane of sides) if (pane.busy) finish(pane, "The server has ended.");
    } catch {
      const stopped = control.signal.aborted;
      for (const pane of sides) if (pane.busy) finish(pane, stopped ? `Stopped${pane.written.length ? ` after ${pane.written.length} tokens` : ""}.` : "The server does not answer; start `nanogrove ui` again.");
    }
    control = null;
    busy();
  }

  function busy() {
    at("write").disabled = Boolean(control);
    at("stop").disabled = !control;
  }

  for (const range of form.querySelectorAll("input[type=range]")) {
    const field = range.nextElementSibling, show = () => { range.value = field.value === "" ? range.dataset.rest : field.value; };
    range.addEventListener("input", () => { field.value = range.value; });
    field.addEventListener("input", show);
    show();
  }
  for (const pane of panes) {
    const point = ({ target }) => target.dataset.number && pick(pane, Number(target.dataset.number));
    pane.text.addEventListener("pointerover", point);
    pane.text.addEventListener("click", point);
    pane.text.addEventListener("focus", () => pick(pane, Math.max(pane.picked, 0)));
    pane.text.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !pane.written.length) return;
      event.preventDefault();
      pick(pane, Math.min(Math.max(pane.picked + step, 0), pane.written.length - 1));
    });
  }
  form.addEventListener("submit", write);
  at("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write(event); });
  at("stop").addEventListener("click", () => control?.abort());
  at("anew")?.addEventListener("click", () => panes.forEach((pane) => { pane.messages = []; pane.text.replaceChildren(); }));
})();
