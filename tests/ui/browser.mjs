// Drives the pages of `nanogrove ui` in Chromium, and prints what is wrong with them.
//
//   node browser.mjs MODULES CHROMIUM ADDRESS PICTURES TRAINER
//
// MODULES holds playwright-core and axe-core. A run called `live` is under way in the process TRAINER, one called `ended` is finished. Pages must ask for
// nothing elsewhere, log no error, need no scrolling from side to side, and be accessible; pictures of them are left in PICTURES.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, executablePath, address, pictures, trainer] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const { chromium } = require("playwright-core"), axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const problems = [];
const check = (holds, text) => holds || problems.push(text);
const origin = new URL(address).origin, page = await context.newPage();
const isRefusal = (text) => text.includes("status of 422"); // of a wrong value in a form
page.on("console", (message) => ["error", "warning"].includes(message.type()) && check(isRefusal(message.text()), message.text()));
page.on("pageerror", (error) => problems.push(String(error)));
page.on("request", (request) => check([origin, `blob:${origin}`, "data:"].some((start) => request.url().startsWith(start)), `asks for ${request.url()}`));
page.setDefaultTimeout(60_000);

async function picture(name) {
  for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 375], ["dark", 375]]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height: 900 });
    await page.waitForTimeout(300);
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    check(wider <= 0, `${name}, ${width} wide: ${wider} pixels wider than the window`);
    await page.evaluate(axe);
    for (const { id, impact, nodes } of (await page.evaluate(() => window.axe.run())).violations) {
      check(false, `${name}, ${scheme}, ${width} wide: ${impact} ${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" ")}`);
    }
    await page.screenshot({ path: `${pictures}/${name}-${scheme}-${width}.png`, fullPage: true });
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 900 });
}

const drawn = () => page.waitForFunction(() => {
  const places = [...document.querySelectorAll("figure > div")];
  return places.length && places.every((place) => place.querySelector(".main-svg"));
});
const state = (word) => page.waitForFunction((word) => document.querySelector("#status .state")?.textContent === word, word);
const steps = () => page.evaluate(() => Number(document.querySelector("#status progress").value));
const reach = () => page.evaluate(() => document.querySelector("figure > div").data[0].x.at(-1));

await page.goto(address);
check(page.url() === `${origin}/`, `the key stays in the address: ${page.url()}`);
await picture("list");
await page.keyboard.press("Tab");
check(await page.evaluate(() => document.activeElement.className === "skip"), "the first Tab does not reach the skip link");

await page.getByRole("link", { name: "live" }).click();
await drawn();
const [before, beforeSteps] = [await reach(), await steps()];
await page.waitForFunction((before) => Number(document.querySelector("#status progress").value) > before, beforeSteps);
await page.waitForFunction((before) => document.querySelector("figure > div").data[0].x.at(-1) > before, before);
await picture("live");

// Killed between two checkpoints, which are 500 steps apart, and resumed, it is drawn once.
await page.waitForFunction(() => document.querySelector("#status progress").value % 500 > 200);
process.kill(Number(trainer), "SIGKILL");
await state("stopped");
const killed = await steps();
await page.getByRole("button", { name: "Continue" }).click();
await state("running");
await page.waitForFunction((killed) => document.querySelector("#status progress").value > killed, killed);
await drawn();
check(await page.evaluate(() => {
  const { x } = document.querySelector("figure > div").data[0];
  return x.every((at, n) => !n || at > x[n - 1]);
}), "a run that was killed and resumed is drawn twice");

await page.getByRole("button", { name: "Stop and save" }).click();
await state("stopped");
const stopped = await steps();
await page.waitForTimeout(1500);
check((await steps()) === stopped, "a stopped run goes on");
await page.getByRole("button", { name: "Continue" }).click();
await page.waitForFunction((stopped) => Number(document.querySelector("#status progress").value) > stopped, stopped);
await page.getByLabel("Tags").fill("odd, <b>wide</b>");
await page.getByLabel("Note").fill("a spike\nat the end");
await page.getByRole("button", { name: "Save", exact: true }).click();
await page.waitForURL(/#notes$/);
check((await page.getByLabel("Tags").inputValue()) === "odd, <b>wide</b>", "the tags are not kept");
await page.getByRole("button", { name: "Stop and save" }).click();
await state("stopped");

await page.goto(`${origin}/?search=wide&sort=steps`);
check((await page.locator("#runs tbody tr").count()) === 1, "a search for a tag does not find its run");
await page.goto(origin);
for (const name of ["live", "ended"]) await page.getByLabel(`Choose ${name}`).check();
await page.waitForTimeout(4000); // the list is read again meanwhile
await page.getByRole("button", { name: "Compare the chosen runs" }).click();
await drawn();
await page.getByLabel("Logarithmic across").check();
await page.locator("#x").selectOption("flops");
await page.getByRole("button", { name: "Draw" }).click();
await drawn();
check(/run=ended&run=live|run=live&run=ended/.test(page.url()) && /x=flops/.test(page.url()), `the choice is not in ${page.url()}`);
check((await page.evaluate(() => document.querySelector("figure > div").data.length)) === 2, "two runs are not two lines");
await page.locator("figure summary").click();
for (const [format, begins] of [["PNG", "\x89PNG"], ["SVG", "<svg"], ["CSV", '"line","FLOPs of a member","nats per token"\n"']]) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: format }).click()]);
  const content = readFileSync(await download.path(), "latin1");
  check(content.startsWith(begins), `${download.suggestedFilename()} begins with ${content.slice(0, 60)}`);
}
await picture("compare");
await page.goto(`${origin}/run?name=ended`);
await drawn();
await page.locator("figure summary").first().click();
check((await page.locator("figure .numbers tr").count()) > 3, "a figure has no table");
await picture("ended");
await page.getByRole("link", { name: "Try it" }).click();
await page.getByLabel("Prompt").fill("The ");
await page.getByLabel("Beside it").selectOption("live");
await page.getByLabel("Tokens", { exact: true }).fill("30");
await page.getByRole("button", { name: "Write" }).click();
await page.waitForFunction(() => document.querySelector(".token") && !document.getElementById("write").disabled);
await page.getByLabel("Text 1; the arrow keys go from token to token").focus();
check(/The likeliest here/.test(await page.locator(".chosen").first().textContent()), "a token does not show what else was likely");
check((await page.locator(".side tbody tr").count()) > 2, "the tokens have no table");
await picture("try");

await page.getByRole("link", { name: "New run", exact: true }).click();
await picture("new");
await page.getByLabel("Begin from the settings of a run").selectOption("ended");
await page.getByRole("button", { name: "Show its form" }).click();
const field = (name) => page.getByLabel(name, { exact: true });
const group = (name) => page.locator("details", { has: page.locator(`[name="${name}"]`) }).locator("summary");
const show = () => page.getByRole("button", { name: "Show what it takes" }).first().click();
await group("model.n_head").click();
await field("model.n_head").fill("3");
await field("Folder of the run").fill("from the page");
await show();
await page.getByText("is not plain").waitFor();
check(await page.locator(".setting .alert", { hasText: "n_head" }).isVisible(), "a wrong value has no error beside it");
check((await field("model.n_head").inputValue()) === "3", "a wrong value is lost");
await picture("new-wrong");
await field("Folder of the run").fill("from-the-page");
await field("model.n_head").fill("2");
await group("seed").click();
await field("seed").fill("-1");
await group("seed").click();
await show();
await field("seed").waitFor(); // the browser itself refuses it, in a group that was closed
await field("seed").fill("7");
await show();
await page.getByRole("heading", { name: "What it takes" }).waitFor();
await picture("new-figures");
await page.getByRole("button", { name: "Start", exact: true }).click();
await page.waitForURL(/run\?name=from-the-page/);
await state("finished");
await drawn();
await browser.close();
problems.forEach((text) => console.log(text));
process.exit(problems.length ? 1 : 0);
