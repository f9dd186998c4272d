// A tab of Chromium with the lab in it, which judges every page: it asks for nothing elsewhere, logs no error, needs no
// scrolling from side to side, and is accessible by axe-core's rules, in light and dark, wide and on a telephone.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// Schemes and widths, with the rules that each is judged by: dark differs from light in colours alone, and a narrow window
// from a wide one in what scrolls.
const ALL = {}, COLOURS = { runOnly: ["color-contrast", "link-in-text-block"] }, NARROW = { runOnly: ["scrollable-region-focusable"] };
const VIEWS = [["light", 1280, ALL], ["dark", 1280, COLOURS], ["light", 375, NARROW]], PICTURED = [...VIEWS, ["dark", 375, NARROW]];

export async function open({ modules, chromium: executablePath, address, pictures }) {
  const require = createRequire(pathToFileURL(`${modules}/`));
  const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
  const args = ["--no-sandbox", "--disable-dev-shm-usage"]; // root has no sandbox, and a container little shared memory
  const browser = await require("playwright-core").chromium.launch({ executablePath, args });
  const problems = [], statuses = new Set(), origin = new URL(address).origin;
  const check = (holds, text) => holds || problems.push(text);

  // A tab of a browser of its own, which has no key yet.
  async function stranger() {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
    const page = await context.newPage();
    const isRefusal = (text) => [...statuses].some((status) => text.includes(`status of ${status}`));
    const isHere = (url) => [origin, `blob:${origin}`, "data:"].some((start) => url.startsWith(start));
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && check(isRefusal(message.text()), message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("request", (request) => check(isHere(request.url()), `asks for ${request.url()}`));
    page.setDefaultTimeout(240_000); // on a machine that does much else
    return page;
  }

  const page = await stranger();
  await page.goto(address);
  check(page.url() === `${origin}/`, `the key stays in the address: ${page.url()}`);

  // Judges what a tab shows, or a part of it, and keeps pictures of it.
  async function picture(name, { tab = page, part = "html" } = {}) {
    await tab.evaluate(axe);
    for (const [scheme, width, rules] of pictures ? PICTURED : VIEWS) {
      await tab.emulateMedia({ colorScheme: scheme });
      await tab.setViewportSize({ width, height: 900 });
      await tab.waitForTimeout(300); // in which figures are fitted to the window
      const wider = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      check(wider <= 0, `${name}, ${width} wide: ${wider} pixels wider than the window`);
      const { violations } = await tab.evaluate((rules) => window.axe.run(rules.part, rules), { ...rules, part });
      for (const { id, impact, nodes } of violations) {
        check(false, `${name}, ${scheme}, ${width} wide: ${impact} ${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" ")}`);
      }
      if (pictures) await tab.screenshot({ path: `${pictures}/${name}-${scheme}-${width}.png`, fullPage: true });
    }
    await tab.emulateMedia({ colorScheme: "light" });
    await tab.setViewportSize({ width: 1280, height: 900 });
  }

  // Waits until a function of the page gives what is true.
  const until = (holds, value) => page.waitForFunction(holds, value, { polling: 200 });

  return {
    page, origin, problems, check, picture, stranger, until,
    close: () => browser.close(),
    // From now on a page may have this status, of which Chromium logs an error.
    allow: (status) => statuses.add(status),
    // Waits until every figure is drawn.
    drawn: () => until(() => {
      const places = [...document.querySelectorAll("figure > div")];
      return places.length && places.every((place) => place.querySelector(".main-svg"));
    }),
    // Waits until a run is in a state.
    state: (word) => until((word) => document.querySelector("#status .state")?.textContent === word, word),
    steps: () => page.evaluate(() => Number(document.querySelector("#status progress").value)),
    // Waits until a run has more steps than so many.
    past: (steps) => until((steps) => Number(document.querySelector("#status progress")?.value) > steps, steps),
    // The lines of the first figure: their names, and where they end.
    lines: () => page.evaluate(() => document.querySelector("figure > div").data.map(({ name, x }) => ({ name, x }))),
  };
}
