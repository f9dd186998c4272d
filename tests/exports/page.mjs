// Lets the model of a page write in headless Chromium: one line of JSON on standard input, one on standard output.
//
//   node page.mjs MODULES CHROMIUM < asked.json
//
// MODULES holds playwright-core and, where it is asked for, axe-core. Asked is {page, prompt, settings,
// texts, width, scheme, axe, policy}: of several texts each has the next seed. The answer has the last text, its tokens,
// rows of the table, tokens per second of each text, and `problems`: errors, requests, what the policy does not refuse,
// scrolling from side to side, and what axe complains of.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, executablePath] = process.argv.slice(2), require = createRequire(pathToFileURL(`${modules}/`));
const asked = JSON.parse(readFileSync(0, "utf8")), problems = [];
const browser = await require("playwright-core").chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const viewport = { width: asked.width ?? 1100, height: 900 };
  const context = await browser.newContext({ viewport, colorScheme: asked.scheme ?? "light" });
  // The worker is made of the page's own data, at a blob: address.
  context.on("request", (request) => /^(file|data|blob):/.test(request.url()) || problems.push(`asks for ${request.url()}`));
  const page = await context.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  await page.goto(pathToFileURL(asked.page).href);
  const status = (pattern) =>
    page.waitForFunction((text) => new RegExp(text).test(document.getElementById("writer-status").textContent), pattern, { timeout: 60_000 });
  await status("^Ready");
  await page.fill("#writer-prompt", asked.prompt);
  for (const [name, value] of Object.entries(asked.settings)) await page.fill(`#writer-${name}`, String(value));
  const perSecond = [];
  for (let text = 0; text < (asked.texts ?? 1); text++) {
    await page.fill("#writer-seed", String(asked.settings.seed + text));
    await page.click("#writer-write");
    await status("second\\.$");
    perSecond.push(Number((await page.textContent("#writer-status")).match(/(\d+) per second/)[1]));
  }
  const read = (code) => page.evaluate(code);
  const text = await read(() => document.getElementById("writer-text").textContent);
  const tokens = await read(() => document.querySelectorAll(".token").length);
  const rows = await read(() => document.getElementById("writer-rows").rows.length);
  await page.dispatchEvent(".token >> nth=0", "pointerover"); // which may be a line end, and that cannot be seen
  if (!/^1\. /.test(await page.textContent("#writer-chosen"))) problems.push("pointing at a token shows nothing");
  if (asked.axe) {
    await page.click("details:has(#writer-rows) summary");
    await page.evaluate(readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    problems.push(...violations.map(({ impact, id, nodes }) => `${impact}: ${id} at ${nodes[0].html.slice(0, 200)}`));
  }
  if (asked.policy) {
    // The policy must refuse a request before it is made, in the page and in its worker.
    const refused = () => new Promise((resolve) => {
      addEventListener("securitypolicyviolation", ({ effectiveDirective }) => resolve(effectiveDirective));
      fetch("http://localhost:9/").catch(() => setTimeout(resolve, 1000, "no policy"));
    });
    const heard = problems.length;
    const directives = await Promise.all([page, ...page.workers()].map((place) => place.evaluate(refused)));
    problems.splice(heard, Infinity, ...directives.filter((name) => name !== "connect-src"));
    if (directives.length < 2) problems.push("there is no worker");
  }
  const wider = await read(() => document.documentElement.scrollWidth - innerWidth);
  if (wider > 0) problems.push(`${wider} pixels wider than the window`);
  console.log(JSON.stringify({ text, tokens, rows, perSecond, problems }));
} finally {
  await browser.close();
}
