"use strict";
// The part of a page in which its model writes. Texts of people and of the model become text nodes, never HTML.
(() => {
  const at = (name) => document.getElementById(`writer-${name}`);
  const form = at("form"), text = at("text"), status = at("status"), rows = at("rows"), chosen = at("chosen");
  const exactly = rows.parentElement.tHead.rows[0].cells.length > 4; // a grammar is known
  const { element, listed, row, view } = tokens;
  const shown = view(
    { text, rows, chosen },
    {
      cells: ({ exact }) => (exactly ? [exact ? listed(exact) : "not defined"] : []),
      about: ({ exact }) => (exact ? [` By the grammar exactly: ${listed(exact)}.`] : []),
    },
  );
  let number = 0, start = 0, latest = 0, worker = null;

  function busy(value) {
    at("write").disabled = value || !worker;
    at("stop").disabled = !value;
  }

  function take({ data }) {
    if (data.ready) {
      busy(false);
      status.textContent = "Ready.";
    } else if (data.number === undefined) {
      status.textContent = `The model cannot be read: ${data.error}`;
    } else if (data.number === number) {
      const steps = data.steps || [], written = steps.filter((step) => step.token !== undefined);
      written.forEach((step) => (step.token === null ? text.append(step.text) : shown.append(step)));
      if (written.length) latest = performance.now();
      const votes = steps.flatMap((step) => step.votes || []);
      votes.forEach(({ text, count }) => at("votes").append(row([count, text || "(nothing)"])));
      const reading = steps.filter((step) => step.reading).pop(), seconds = (latest - start) / 1000;
      if (data.error) status.textContent = data.error;
      else if (reading && !shown.count()) status.textContent = `Reading the prompt: ${reading.reading} of ${reading.of} tokens.`;
      else if (shown.count()) status.textContent = `${shown.count()} tokens, ${Math.round(shown.count() / seconds)} per second${data.done ? "." : " …"}`;
      if (data.done || data.error) busy(false);
    }
  }

  // What is written on: all settings, checked by the form.
  function begin(event) {
    event.preventDefault();
    const value = (name) => Number(at(name).value), prompt = at("prompt").value;
    [number, start] = [number + 1, performance.now()];
    text.replaceChildren(element("span", prompt, "prompt"));
    shown.clear();
    if (at("votes")) at("votes").replaceChildren();
    status.textContent = "Reading the prompt.";
    busy(true);
    const sampling = { temperature: value("temperature"), topK: value("top-k"), topP: value("top-p") };
    worker.postMessage({ write: { number, prompt, count: value("tokens"), seed: value("seed"), ...sampling } });
  }

  function stop() {
    worker.postMessage({ stop: true });
    number += 1; // what is still on its way is left out
    status.textContent = `Stopped after ${shown.count()} tokens.`;
    busy(false);
  }

  form.addEventListener("submit", begin);
  at("stop").addEventListener("click", stop);
  at("temperature").addEventListener("input", () => (at("temperature-shown").textContent = at("temperature").value));

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
