"use strict";
// The page on which runs write. Texts of people and of models become text nodes, never HTML.
(() => {
  const { element, row, percent, visible, view } = tokens;
  const at = (id) => document.getElementById(id), form = at("play");
  const EXACT = ["By the grammar exactly", "KL(model‖exact)", "KL(exact‖model)", "To what cannot occur"];
  const panes = [...document.querySelectorAll(".side")].map((box) => {
    const part = (selector) => box.querySelector(selector);
    const [name, said, bar, text, votes] = [".name", ".said", "progress", ".written", ".votes"].map(part);
    const head = part(".all thead tr"), places = { text, rows: part(".all tbody"), chosen: part(".chosen") };
    const pane = { box, name, said, bar, text, votes, head, messages: [], answer: "", busy: false, columns: {} };
    pane.leftOut = part(".left-out");
    pane.beside = part(".beside");
    pane.tokens = view(places, { cells: (token) => further(pane, token), about: (token) => [sayVotes(token)], draw: (...what) => draw(pane, ...what) });
    return pane;
  });
  let control = null, start = 0; // of the text that is being written

  const chats = () => Boolean(at("chat")?.checked);
  const nats = (value) => value.toFixed(value < 0.1 ? 4 : 2);
  const counted = (ballots) => ballots.map(([name, count]) => `${visible(name)} (${count})`).join(", ");
  const sayVotes = ({ ballots }) => (ballots ? ` Votes: ${counted(ballots)}.` : "");
  const likeliest = (exact) => exact.filter(([, , share]) => share > 0).slice(0, 5).map(([name, , share]) => `${visible(name)} ${percent(share)}`).join(", ");

  function say(pane, text, waits = false) {
    pane.said.textContent = text;
    pane.bar.hidden = !waits;
    pane.bar.removeAttribute("value"); // until it is known
  }

  // The columns of the table that not all runs have, for one token.
  function further(pane, { exact, kl, excess, impossible, ballots }) {
    const cells = !pane.columns.exact ? [] : exact ? [likeliest(exact), nats(kl), nats(excess), percent(impossible)] : ["not defined", "", "", ""];
    return pane.columns.votes ? [...cells, counted(ballots || [])] : cells;
  }

  // Adds columns to the head of the table, once.
  function widen(pane, kind, titles) {
    if (pane.columns[kind]) return;
    pane.columns[kind] = true;
    for (const title of titles) {
      const head = element("th", title, "further");
      head.scope = "col";
      pane.head.append(head);
    }
  }

  // Two bars for each of the likeliest tokens of a position: the model's probability and that of the grammar.
  function draw(pane, { token, exact, kl, excess, impossible }, number) {
    if (exact === undefined) return;
    const place = `${number}. ${visible(token)}: `;
    if (!exact) {
      pane.beside.replaceChildren(element("p", `${place}the grammar says nothing here, after a whole sequence or what cannot occur.`, "note"));
      return;
    }
    const table = document.createElement("table"), titles = document.createElement("tr"), body = document.createElement("tbody");
    const outside = impossible > 0 ? ` The model gives ${percent(impossible)} to tokens that cannot occur.` : "";
    table.append(element("caption", `${place}KL(model‖exact) ${nats(kl)} nats, KL(exact‖model) ${nats(excess)} nats.${outside}`));
    for (const title of ["Token", "Model", "Exact"]) {
      const head = element("th", title);
      head.scope = "col";
      titles.append(head);
    }
    for (const [name, ...shares] of exact) {
      const line = row([visible(name), ...shares.map(percent)]);
      shares.forEach((share, side) => {
        const bar = element("span", "", side ? "bar exact" : "bar");
        bar.style.width = `${100 * share}%`;
        line.cells[side + 1].append(bar);
      });
      body.append(line);
    }
    const top = document.createElement("thead");
    top.append(titles);
    table.append(top, body);
    pane.beside.replaceChildren(table);
  }

  function append(pane, event) {
    if (event.exact !== undefined) widen(pane, "exact", EXACT);
    pane.tokens.append(event);
    pane.answer += event.text;
    const count = pane.tokens.count(), seconds = (performance.now() - start) / 1000;
    say(pane, `${count} tokens, ${Math.round(count / seconds)} per second …`);
  }

  function vote(pane, { voting, votes, voters, ballots }) {
    const [caption, rows] = [".counted", "tbody"].map((selector) => pane.votes.querySelector(selector));
    if (ballots) {
      widen(pane, "votes", ["Votes"]);
      ballots.forEach((each, number) => pane.tokens.add(number, { ballots: each }));
    }
    if (voting !== undefined) caption.textContent = `The members write: ${percent(voting)} …`;
    if (votes) {
      caption.textContent = `Each of ${voters} members continues the prompt by its likeliest tokens, whatever the settings above.`;
      rows.replaceChildren(...votes.map(([count, text]) => row([count, text || "(nothing)"])));
    }
    pane.votes.hidden = false;
  }

  function finish(pane, text) {
    pane.busy = false;
    say(pane, text);
    if (chats()) pane.messages.push({ role: "assistant", content: pane.answer });
  }

  function take(event) {
    const pane = panes[event.side];
    if (event.state) say(pane, event.state, true);
    if (event.note) {
      pane.leftOut.textContent = event.note;
      pane.leftOut.hidden = false;
    }
    if (event.share !== undefined) pane.bar.value = event.share;
    if (event.token !== undefined) append(pane, event);
    else if (event.text) {
      pane.text.append(event.text);
      pane.answer += event.text;
      say(pane, "Writing; this way of decoding has no probabilities …");
    }
    if (event.voting !== undefined || event.votes || event.ballots) vote(pane, event);
    if (event.end) finish(pane, `${event.tokens} token${event.tokens === 1 ? "" : "s"}; ${event.end === "stop" ? "the text has ended" : "that is as many as were asked for"}.`);
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
    const stop = at("stops").value.split("\n").filter(Boolean).map((text) => text.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
    return {
      sides, prompt: at("prompt").value, tokens: Number(at("tokens").value), seed: Number(at("seed").value), sampling, stop,
      precision: at("precision").value, calibrated: at("calibrated").checked, speculative: at("speculative").checked,
      lookahead: at("lookahead").value === "" ? null : Number(at("lookahead").value), steering: steering(),
    };
  }

  // The reward that steers, and null where there is none.
  function steering() {
    const chosen = at("reward").value, beta = Number(at("beta").value);
    if (!chosen) return null;
    return chosen.startsWith("run:") ? { kind: "run", of: chosen.slice(4), beta } : { kind: chosen, of: at("reward-of").value, beta };
  }

  // Shows what the chosen reward asks for.
  function showReward() {
    const { value, dataset } = at("reward").selectedOptions[0];
    at("strength").hidden = !value;
    at("reward-field").hidden = !dataset.label;
    at("reward-field").querySelector("label").textContent = dataset.label || "";
    at("beta").disabled = !value;
  }

  function clear(pane, name) {
    Object.assign(pane, { answer: "", busy: true, columns: {} });
    if (pane.name.textContent !== name) pane.messages = [];
    pane.name.textContent = name;
    pane.box.hidden = false;
    pane.said.classList.remove("alert");
    pane.tokens.clear();
    pane.head.querySelectorAll(".further").forEach((cell) => cell.remove());
    pane.beside.replaceChildren();
    pane.votes.querySelector("tbody").replaceChildren();
    pane.votes.hidden = pane.leftOut.hidden = true;
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
      for (const pane of sides) {
        const count = pane.votes.querySelector(".counted");
        if (count.textContent.endsWith("…")) count.textContent = "Stopped; there are no votes.";
      }
      for (const pane of sides) if (pane.busy) finish(pane, stopped ? `Stopped${pane.tokens.count() ? ` after ${pane.tokens.count()} tokens` : ""}.` : "The server does not answer; start `nanogrove ui` again.");
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
  at("reward").addEventListener("change", showReward);
  showReward(); // a browser may have kept what was chosen
  form.addEventListener("submit", write);
  at("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write(event); });
  at("stop").addEventListener("click", () => control?.abort());
  at("anew")?.addEventListener("click", () => panes.forEach((pane) => { pane.messages = []; pane.text.replaceChildren(); }));
})();
