"use strict";
// The page of a new run: a wrong value in a closed group is shown, a dry run says that it is under way, and a file that is
// dropped or chosen is sent and looked at.
(() => {
  const status = document.getElementById("waiting");
  const drop = document.getElementById("drop"), field = document.getElementById("file"), taking = document.getElementById("taking");

  // Says for how long something has taken, until the next page comes.
  function count(place, what) {
    const begin = performance.now();
    const show = () => {
      place.textContent = `${what}: ${Math.round((performance.now() - begin) / 1000)} s of ${place.dataset.longest} s at most`;
    };
    show();
    setInterval(show, 1000);
  }

  document.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
  document.addEventListener("submit", (event) => {
    if (status && event.submitter?.value !== "start") count(status, "reading the data and timing a few steps");
  });
  if (!drop) return;

  function say(text, isProblem) {
    taking.className = isProblem ? "alert" : "";
    taking.textContent = text;
  }

  function refuse(text) {
    field.disabled = false;
    field.value = "";
    say(text, true);
  }

  function look(address) {
    field.disabled = true;
    say("", false);
    count(taking, "looking at the file, and at what training on it takes");
    location.assign(address); // this page stays until that one has come
  }

  function send(file) {
    if (file.size > Number(drop.dataset.most)) {
      refuse(`${file.name}: too large for a page; give its path to nanogrove explore`);
      return;
    }
    const request = new XMLHttpRequest(); // fetch says nothing of how much is sent
    request.open("POST", `/files?name=${encodeURIComponent(file.name)}`);
    request.upload.addEventListener("progress", ({ loaded, total }) => say(`taking ${file.name}: ${Math.floor(100 * loaded / (total || 1))}%`, false));
    request.addEventListener("load", () => {
      if (request.status === 200) look(`/new?file=${encodeURIComponent(request.responseText)}`);
      else refuse(request.responseText);
    });
    request.addEventListener("error", () => refuse(`${file.name}: cannot be read, or the server does not answer; a folder is explored on the command line`));
    field.disabled = true;
    say(`taking ${file.name}`, false);
    request.send(file);
  }

  function take(files) {
    if (field.disabled) return;
    if (files.length === 1) send(files[0]);
    else if (files.length) refuse("drop one file; several are explored as a folder on the command line");
  }

  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (over) => drop.classList.toggle("over", over);
  document.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault(); // or else the browser leaves the page and shows the file
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    mark(false);
    take(event.dataTransfer.files);
  });
  field.addEventListener("change", () => take(field.files));
  for (const link of drop.querySelectorAll("a")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      look(link.href);
    });
  }
})();
