// Takes pictures of pages: reads a list of jobs as JSON from standard input, and prints what is wrong with a page.
//
//   node pictures.mjs FOLDER CHROMIUM < jobs.json
//
// FOLDER holds node_modules/playwright-core. A job is {page, out, width, scheme, height}: the picture is as high as the
// page where height is null. A page must ask for nothing, log no error and need no scrolling from side to side.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(pathToFileURL(`${folder}/`))("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const problems = [];

for (const { page: path, out, width, scheme, height } of JSON.parse(readFileSync(0, "utf8"))) {
  const problem = (text) => problems.push(`${path}, ${scheme}, ${width} wide: ${text}`);
  const page = await browser.newPage({ viewport: { width, height: height ?? 900 }, colorScheme: scheme });
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && problem(message.text()));
  page.on("pageerror", (error) => problem(String(error)));
  page.on("request", (request) => /^(file|data):/.test(request.url()) || problem(`asks for ${request.url()}`));
  await page.goto(pathToFileURL(path).href);
  const drawn = () => [...document.querySelectorAll("figure > div")].every((place) => place.querySelector(".main-svg"));
  await page.waitForFunction(drawn, null, { timeout: 60_000 }).catch(() => problem("a figure is not drawn"));
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wider > 0) problem(`${wider} pixels wider than the window`);
  const links = await page.evaluate(() => document.querySelectorAll("a, iframe, object, embed").length);
  if (links) problem(`${links} links`);
  if (out.endsWith(".png")) await page.screenshot({ path: out, fullPage: height === null });
  else {
    const client = await page.context().newCDPSession(page);
    const taken = await client.send("Page.captureScreenshot", { format: "webp", quality: 60 });
    writeFileSync(out, Buffer.from(taken.data, "base64"));
  }
  await page.close();
}
await browser.close();
problems.forEach((text) => console.log(text));
process.exit(problems.length ? 1 : 0);
