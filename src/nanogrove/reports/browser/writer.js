"use strict";
// The part of a page in which its model writes. Texts of people and of the model become text nodes, never HTML.
(() => {
  const at = (name) => document.getElementById(`writer-${name}`);
  const form = at("form"), text = at("text"), status = at("status"), rows = at("rows"), chosen = at("chosen");
  const LEVELS = [0.05, 0.2, 0.5, 0.8]; // of probability, between which colours change
  const exactly = rows.parentElement.tHead.rows[0].cells.length > 4; // a grammar is known
  let number = 0, start = 0, latest = 0, worker = null, written = [], picked = -1;

  function element(name, content, type = "") {
    const node = document.createElement(name);
    node.textContent = content;
    if (type) node.className = type;
    return node;
  }

  const percent = (share) => (share >= 0.0995 ? `${Math.round(100 * share)}%` : `${(100 * share).toPrecision(2)}%`);
  const visible = (name) => name.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  const listed = (others) => others.map(({ shown, probability }) => `${visible(shown)} ${percent(probability)}`).join(", ");

  function busy(value) {
    at("write").disabled = value || !worker;
    at("stop").disabled = !value;
  }

  function append(step) {
    if (step.token === null) {
      text.append(step.text);
      return;
    }
    const level = LEVELS.filter((least) => step.probability >= least).length;
    const span = element("span", step.text, `token level-${level}`);
    if (step.ends) span.dataset.name = step.shown;
    span.dataset.number = written.length;
    text.append(span);
    written.push({ ...step, span });
    const row = document.createElement("tr");
    const cells = [String(written.length), visible(step.shown), percent(step.probability), listed(step.alternatives)];
    if (exactly) cells.push(step.exact ? listed(step.exact) : "not defined");
    row.append(...cells.map((cell) => element("td", cell)));
    rows.append(row);
  }

  function count({ text, count }) {
    const row = document.createElement("tr");
    row.append(element("td", String(count)), element("td", text || "(nothing)"));
    at("votes").append(row);
  }

  // Shows the probability and the alternatives of one token.
  function pick(index) {
    if (!written[index]) return;
    if (written[picked]) written[picked].span.classList.remove("picked");
    picked = index;
    const { span, shown, probability, alternatives, exact } = written[index];
    span.classList.add("picked");
    chosen.replaceChildren(
      element("strong", `${index + 1}. ${visible(shown)} ${percent(probability)}`),
      ` The likeliest here: ${listed(alternatives)}.`,
      exact ? ` By the grammar exactly: ${listed(exact)}.` : "",
    );
  }

  function take({ data }) {
    if (data.ready) {
      busy(false);
      status.textContent = "Ready.";
    } else if (data.number === undefined) {
      status.textContent = `The model cannot be read: ${data.error}`;
    } else if (data.number === number) {
      const steps = data.steps || [], tokens = steps.filter((step) => step.token !== undefined);
      tokens.forEach(append);
      if (tokens.length) latest = performance.now();
      steps.filter((step) => step.votes).forEach(({ votes }) => votes.forEach(count));
      const reading = steps.filter((step) => step.reading).pop(), seconds = (latest - start) / 1000;
      if (data.error) status.textContent = data.error;
      else if (reading && !written.length) status.textContent = `Reading the prompt: ${reading.reading} of ${reading.of} tokens.`;
      else if (written.length) status.textContent = `${written.length} tokens, ${Math.round(written.length / seconds)} per second${data.done ? "." : " …"}`;
      if (data.done || data.error) busy(false);
    }
  }

  // What is written on: all settings, checked by the form.
  function begin(event) {
    event.preventDefault();
    const value = (name) => Number(at(name).value), prompt = at("prompt").value;
    [number, start, written, picked] = [number + 1, performance.now(), [], -1];
    text.replaceChildren(element("span", prompt, "prompt"));
    rows.replaceChildren();
    if (at("votes")) at("votes").replaceChildren();
    chosen.textContent = "";
    status.textContent = "Reading the prompt.";
    busy(true);
    const sampling = { temperature: value("temperature"), topK: value("top-k"), topP: value("top-p") };
    worker.postMessage({ write: { number, prompt, count: value("tokens"), seed: value("seed"), ...sampling } });
  }

  function stop() {
    worker.postMessage({ stop: true });
    number += 1; // what is still on its way is left out
    status.textContent = `Stopped after ${written.length} tokens.`;
    busy(false);
  }

  form.addEventListener("submit", begin);
  at("stop").addEventListener("click", stop);
  at("temperature").addEventListener("input", () => (at("temperature-shown").textContent = at("temperature").value));
  text.addEventListener("pointerover", ({ target }) => target.dataset.number && pick(Number(target.dataset.number)));
  text.addEventListener("click", ({ target }) => target.dataset.number && pick(Number(target.dataset.number)));
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !written.length) return;
    event.preventDefault();
    pick(Math.min(Math.max(picked + step, 0), written.length - 1));
  });

  try {
    const address = URL.createObjectURL(new Blob([at("code").textContent], { type: "text/javascript" }));
    worker = new Worker(address);
    worker.onmessage = take;
    worker.onerror = ({ message }) => (status.textContent = `This browser cannot run the model: ${message}`);
    worker.postMessage({ model: at("model").textContent });
  } catch (error) {
    status.textContent = `This browser cannot run the model: ${error.message}`;
  }
})();
