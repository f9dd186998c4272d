// The labels of all axes of a page in headless Chromium, horizontal and vertical ones by turns, by width of the window.
//
//   node ticks.mjs MODULES CHROMIUM PAGE
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, executablePath, address] = process.argv.slice(2), require = createRequire(pathToFileURL(`${modules}/`));
const browser = await require("playwright-core").chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] }); // a container has little shared memory

// Of each label its text, and where it begins and ends along its axis.
function labels() {
  return [...document.querySelectorAll("figure")].flatMap((figure) => ["x", "y"].map((axis) => {
    const boxes = [...figure.querySelectorAll(`.${axis}tick text`)].map((each) => ({ text: each.textContent, box: each.getBoundingClientRect() }));
    const ends = ({ text, box }) => (axis === "x" ? { text, start: box.left, end: box.right } : { text, start: box.top, end: box.bottom });
    return boxes.map(ends).sort((a, b) => a.start - b.start);
  }));
}

try {
  const views = {};
  for (const widths of [[375], [1280], [1280, 375]]) {
    const page = await browser.newPage({ viewport: { width: widths[0], height: 900 } });
    await page.goto(pathToFileURL(address).href);
    await page.waitForFunction(() => [...document.querySelectorAll("figure > div")].every((place) => place.querySelector(".main-svg")), null, { timeout: 100_000, polling: 200 });
    for (const width of widths.slice(1)) {
      await page.setViewportSize({ width, height: 900 });
      await page.waitForTimeout(1500); // in which the figures are fitted to it
    }
    views[widths.join(" to ")] = await page.evaluate(labels);
    await page.close();
  }
  console.log(JSON.stringify(views));
} finally {
  await browser.close();
}
