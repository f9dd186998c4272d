"use strict";
// The script of a report, after `figures.js`: unpacks plotly, and draws.
(async () => {
  const figures = figuresOf(document);

  async function unpacked(packed) {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  try {
    const plotly = document.createElement("script");
    plotly.textContent = await unpacked(document.getElementById("plotly").textContent);
    document.head.append(plotly); // runs at once
    figures.forEach(draw);
  } catch (error) {
    for (const { place } of figures) {
      place.className = "undrawn";
      place.textContent = "This browser cannot draw the figure: it has to be one of 2023 or newer.";
    }
    throw error;
  }
  whenLooksChange(() => figures.forEach(draw));
})();
