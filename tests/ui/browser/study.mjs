// The page of the study `rates`: its verdict and figures, notes, and the comparison of its runs, which the list gives too.
export async function study({ page, origin, check, picture, drawn, lines }) {
  await page.goto(origin);
  await page.getByRole("link", { name: "rates", exact: true }).click();
  await drawn();
  check(await page.getByText("fast is better than slow by").first().isVisible(), "the page of a study gives no verdict");
  await page.getByLabel("Tags").fill("odd, <b>wide</b>");
  await page.getByRole("button", { name: "Save", exact: true }).click();
  await page.waitForURL(/#notes$/);
  check((await page.getByLabel("Tags").inputValue()) === "odd, <b>wide</b>", "the tags of a study are not kept");
  await drawn();
  await picture("study");
  await page.getByRole("link", { name: "Compare its runs" }).click();
  await drawn();
  const arms = [...new Set((await lines()).map(({ name }) => name))]; // each has its band too
  const verdict = await page.locator(".verdicts").textContent();
  check(arms.length === 2 && arms.every((name) => name.endsWith(": 6 runs")), `two arms are drawn as ${arms}`);
  check(verdict.includes("fast is better than slow by"), `the verdict beside the comparison is “${verdict}”`);

  await page.goto(`${origin}/?search=rates%2Fruns%2Ffast`);
  await page.getByLabel("Choose all 6 runs").check();
  await page.getByRole("button", { name: "Compare the chosen runs" }).click();
  await drawn();
  check((await lines()).length === 6, "six runs are not six lines");
}
