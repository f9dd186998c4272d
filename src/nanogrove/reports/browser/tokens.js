"use strict";
// A text token by token: coloured by probability, one of them chosen with what else was likely, all of them in a table.
// What is listed of a position are pairs of a token's name and its probability. Texts become text nodes, never HTML.
const tokens = (() => {
  const LEVELS = [0.05, 0.2, 0.5, 0.8]; // of probability, between which colours change

  function element(name, content, type = "") {
    const node = document.createElement(name);
    node.textContent = content;
    if (type) node.className = type;
    return node;
  }

  function row(cells) {
    const node = document.createElement("tr");
    node.append(...cells.map((cell) => element("td", cell)));
    return node;
  }

  const percent = (share) => (share >= 0.0995 ? `${Math.round(100 * share)}%` : `${(100 * share).toPrecision(2)}%`);
  const visible = (name) => name.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  const listed = (pairs) => pairs.map(([name, share]) => `${visible(name)} ${percent(share)}`).join(", ");

  // The tokens of a text in three places of a page: the text, the rows of a table, and what is said of the chosen one.
  // `cells(token)` are further columns, `about(token)` is what is further said, and `draw(token, number)` draws the chosen
  // one, or the latest while none is chosen. A token is {text, token, probability, likeliest}, its name being `token`,
  // with what these functions read.
  function view({ text, rows, chosen }, { cells = () => [], about = () => [], draw = () => {} }) {
    let written = [], picked = -1;

    function clear() {
      [written, picked] = [[], -1];
      rows.replaceChildren();
      chosen.replaceChildren();
    }

    function columns(number) {
      const token = written[number];
      return [number + 1, visible(token.token), percent(token.probability), listed(token.likeliest), ...cells(token)];
    }

    function append(token) {
      const level = LEVELS.filter((least) => token.probability >= least).length;
      const span = element("span", token.text, `token level-${level}`);
      if (!token.text) span.dataset.name = visible(token.token); // which writes nothing, or not yet
      span.dataset.number = written.length;
      text.append(span);
      written.push({ ...token, span });
      rows.append(row(columns(written.length - 1)));
      if (picked < 0) draw(token, written.length);
    }

    // Adds to what is known of a token.
    function add(number, known) {
      if (!written[number]) return;
      Object.assign(written[number], known);
      rows.rows[number].replaceWith(row(columns(number)));
      if (number === picked) pick(number);
    }

    function pick(number) {
      if (!written[number]) return;
      written[picked]?.span.classList.remove("picked");
      picked = number;
      const { span, token, probability, likeliest } = written[number];
      span.classList.add("picked");
      const head = element("strong", `${number + 1}. ${visible(token)} ${percent(probability)}`);
      chosen.replaceChildren(head, ` The likeliest here: ${listed(likeliest)}.`, ...about(written[number]));
      draw(written[number], number + 1);
    }

    const point = ({ target }) => target.dataset.number && pick(Number(target.dataset.number));
    text.addEventListener("pointerover", point);
    text.addEventListener("click", point);
    text.addEventListener("focus", () => pick(Math.max(picked, 0)));
    text.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !written.length) return;
      event.preventDefault();
      pick(Math.min(Math.max(picked + step, 0), written.length - 1));
    });
    return { clear, append, add, count: () => written.length };
  }

  return { element, row, percent, visible, listed, view };
})();
