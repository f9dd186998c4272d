// The page on which runs write. `asked.texts` lists {fields, runs, written}: what is filled in, the run whose page it is,
// `ended`, with perhaps another beside it, and what `nanogrove generate` writes with each, the prompt included.
export async function play({ page, origin, check, picture, drawn, until }, { texts }) {
  await page.goto(`${origin}/run?name=ended`);
  await drawn();
  await page.locator("figure summary").first().click();
  check((await page.locator("figure .numbers tr").count()) > 3, "a figure has no table");
  await picture("ended");
  await page.getByRole("link", { name: "Try it" }).click();
  for (const { fields, runs, written } of texts) {
    for (const [name, value] of Object.entries(fields)) await page.getByLabel(name, { exact: true }).fill(value);
    await page.getByLabel("Beside it").selectOption(runs[1] ?? "");
    await page.getByRole("button", { name: "Write" }).click();
    await until(() => document.querySelector(".token") && !document.getElementById("write").disabled);
    const shown = (await page.locator(".side:not([hidden]) .written").allTextContents()).map((text) => text.trimEnd());
    check(JSON.stringify(shown) === JSON.stringify(written), `the page writes ${JSON.stringify(shown)}, generate ${JSON.stringify(written)}`);
  }
  await page.getByLabel("Text 1; the arrow keys go from token to token").focus();
  check(/The likeliest here/.test(await page.locator(".chosen").first().textContent()), "a token does not show what else was likely");
  check((await page.locator(".side tbody tr").count()) > 2, "the tokens have no table");
  await picture("try");
}
