"use strict";
// The form of a new run: a wrong value in a closed group is shown, and a dry run says that it is under way.
(() => {
  document.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
  document.addEventListener("submit", (event) => {
    const status = document.getElementById("waiting");
    if (!status || event.submitter?.value === "start") return;
    const begin = performance.now();
    const show = () => {
      const seconds = Math.round((performance.now() - begin) / 1000);
      status.textContent = `reading the data and timing a few steps: ${seconds} s of ${status.dataset.longest} s at most`;
    };
    show();
    setInterval(show, 1000);
  });
})();
