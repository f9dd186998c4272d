// Three runs that differ in their seeds, `ended`, `other` and `third`, compared from the list; a damaged one among them.
import { readFileSync } from "node:fs";

const RUNS = ["ended", "other", "third"];
const FILES = [["PNG", "\x89PNG"], ["SVG", "<svg"], ["CSV", '"line","FLOPs of a member","nats per token"\n"']];

export async function compare({ page, origin, check, picture, drawn, lines }) {
  const names = async () => (await lines()).map(({ name }) => name).join();
  await page.goto(origin);
  for (const name of RUNS) await page.getByLabel(`Choose ${name}`).check();
  await page.waitForTimeout(4000); // the list is read again meanwhile
  await page.getByRole("button", { name: "Compare the chosen runs" }).click();
  await drawn();
  await page.getByLabel("Logarithmic across").check();
  await page.locator("#x").selectOption("flops");
  await page.getByRole("button", { name: "Draw" }).click();
  await drawn();
  const { searchParams } = new URL(page.url());
  check(searchParams.getAll("run").sort().join() === RUNS.join() && searchParams.get("x") === "flops", `the choice is not in ${page.url()}`);
  check((await names()) === RUNS.join(), `three runs are drawn as ${await names()}`);
  await page.locator("figure summary").click();
  for (const [format, begins] of FILES) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: format }).click()]);
    const content = readFileSync(await download.path(), "latin1");
    check(content.startsWith(begins), `${download.suggestedFilename()} begins with ${content.slice(0, 60)}`);
  }
  await picture("compare");

  await page.goto(`${page.url()}&run=damaged&over=seed`);
  await drawn();
  check((await page.locator(".alert", { hasText: "damaged" }).count()) === 1, "a damaged run is compared without a word");
  check((await lines()).some(({ name }) => name.includes("3")), `three seeds are drawn as ${await names()}`);
  await picture("compare-seeds");
}
