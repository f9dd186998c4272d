// The list of runs, of the folder `asked.lab`, which is empty until all that is in `asked.filled` is moved there.
import { readdirSync, renameSync } from "node:fs";

export async function list({ page, origin, check, picture }, { filled, lab }) {
  await page.goto(origin);
  check(await page.getByText("No run is here yet").isVisible(), "an empty folder is not said to be empty");
  await picture("list-empty");
  for (const name of readdirSync(filled)) renameSync(`${filled}/${name}`, `${lab}/${name}`);
  await page.getByRole("link", { name: "ended" }).waitFor(); // which the page finds by itself
  await page.goto(origin); // with the search
  check(await page.getByText("1 damaged").isVisible(), "a damaged run is not counted");
  check((await page.locator("#runs tbody tr").count()) === 4, "a damaged run hides the others");
  await picture("list");
  await page.goto(origin);
  await page.keyboard.press("Tab");
  check(await page.evaluate(() => document.activeElement.className === "skip"), "the first Tab does not reach the skip link");
  await page.getByLabel("Search").fill("finished third");
  await page.getByRole("button", { name: "Search" }).click();
  await page.waitForURL(/search=finished\+third/);
  check((await page.locator("#runs tbody tr").count()) === 1, "a search does not find one run");
  await page.goto(origin);
  await page.getByRole("link", { name: "damaged" }).click();
  check(await page.locator(".alert").first().isVisible(), "the page of a damaged run does not say so");
  await picture("damaged");
}
