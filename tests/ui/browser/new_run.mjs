// A run is started from the form, from the settings of `ended`, after values that are wrong.
export async function new_run({ page, origin, check, picture, drawn, state, allow }) {
  const field = (name) => page.getByLabel(name, { exact: true });
  const group = (name) => page.locator("details", { has: page.locator(`[name="${name}"]`) }).locator("summary");
  const show = () => page.getByRole("button", { name: "Show what it takes" }).first().click();
  allow(422); // of a wrong value
  await page.goto(origin);
  await page.getByRole("link", { name: "New run", exact: true }).click();
  await picture("new");
  await page.getByLabel("Begin from the settings of a run").selectOption("ended");
  await page.getByRole("button", { name: "Show its form" }).click();
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
}
