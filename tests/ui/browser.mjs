// Drives pages of `nanogrove ui` in Chromium, and prints what is wrong with them, a line each.
//
//   node browser.mjs < asked.json
//
// Asked is {modules, chromium, address, pictures, pages, ...}: the folder of node modules that has playwright-core and
// axe-core, the path of Chromium, the address that `nanogrove ui` prints, a folder for pictures or null, and the pages
// to drive, in this order. Each page is driven by a file of `browser/`, which says what else it reads of `asked`.
import { readFileSync } from "node:fs";
import { beside } from "./browser/beside.mjs";
import { compare } from "./browser/compare.mjs";
import { open } from "./browser/driver.mjs";
import { files } from "./browser/files.mjs";
import { list } from "./browser/list.mjs";
import { new_run } from "./browser/new_run.mjs";
import { play } from "./browser/play.mjs";
import { refused } from "./browser/refused.mjs";
import { run } from "./browser/run.mjs";
import { study } from "./browser/study.mjs";

const PAGES = { beside, compare, files, list, new_run, play, refused, run, study };
const asked = JSON.parse(readFileSync(0, "utf8"));
const lab = await open(asked);
try {
  for (const name of asked.pages) {
    await PAGES[name](lab, asked).catch((error) => lab.check(false, `${name}, at ${lab.page.url()}: ${error.stack}`));
  }
} finally {
  await lab.close();
}
lab.problems.forEach((text) => console.log(text));
process.exit(lab.problems.length ? 1 : 0);
