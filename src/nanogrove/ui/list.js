"use strict";
// The list of runs and the page of a study, read again while somebody looks at them; the server spends a fiftieth of the
// time on that, at most.
(() => {
  const LEAST_MILLISECONDS = 3000, SHARE = 50;
  const boxes = () => [...document.querySelectorAll("#runs input[name=run]")];

  const isBusy = (runs) => document.hidden || runs.contains(document.activeElement) || !getSelection().isCollapsed;

  // The box that chooses all says whether as many as can be are chosen.
  function showAll() {
    const all = document.getElementById("all"), chosen = boxes().filter((box) => box.checked).length;
    if (!all) return;
    all.checked = chosen >= all.dataset.most;
    all.indeterminate = chosen > 0 && !all.checked;
  }

  document.addEventListener("change", ({ target }) => {
    if (target.id === "all") boxes().forEach((box, n) => { box.checked = target.checked && n < target.dataset.most; });
    showAll();
  });

  function replaceRuns(page) {
    const runs = document.getElementById("runs"), fresh = page.getElementById("runs");
    if (!runs || !fresh || fresh.innerHTML === runs.innerHTML || isBusy(runs)) return;
    const chosen = new Set(new FormData(runs).getAll("run"));
    for (const box of fresh.querySelectorAll("input[name=run]")) box.checked = chosen.has(box.value);
    runs.replaceWith(fresh);
    showAll();
  }

  function replaceStudies(page) {
    const studies = document.getElementById("studies"), fresh = page.getElementById("studies");
    if (studies && fresh && fresh.innerHTML !== studies.innerHTML && !isBusy(studies)) studies.replaceWith(fresh);
  }

  // Sections of a study that changed, for the script that draws their figures.
  function replaceSections(page) {
    const live = document.getElementById("live"), fresh = page.getElementById("live");
    if (!live || !fresh) return;
    const digest = (section) => document.getElementById(section.id)?.dataset.digest;
    const changed = [...fresh.children].filter((section) => digest(section) !== section.dataset.digest);
    if (!changed.length) return;
    const order = [...fresh.children].map(({ id }) => id), sections = Object.fromEntries(changed.map(({ id, innerHTML }) => [id, innerHTML]));
    live.dispatchEvent(new CustomEvent("sections", { detail: { order, sections } }));
    for (const section of changed) document.getElementById(section.id).dataset.digest = section.dataset.digest;
  }

  async function refresh() {
    const begin = performance.now(), runs = document.getElementById("runs");
    if (!document.hidden && !(runs && isBusy(runs))) {
      const answer = await fetch(location.href).catch(() => null);
      if (answer?.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        replaceRuns(page);
        replaceStudies(page);
        replaceSections(page);
      }
    }
    setTimeout(refresh, Math.max(LEAST_MILLISECONDS, SHARE * (performance.now() - begin)));
  }

  showAll(); // browsers keep boxes when one comes back to a page
  setTimeout(refresh, LEAST_MILLISECONDS);
})();
