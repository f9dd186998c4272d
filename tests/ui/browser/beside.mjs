// What stands beside a text: the exact distribution of a grammar, of the run `grammar`; votes, of the run `voters`; and a
// text that is steered by a reward.
export async function beside({ page, origin, check, picture, allow }) {
  allow(409); // of a pattern that is none
  const write = async (fields) => {
    for (const [name, value] of Object.entries(fields)) await page.locator(`#${name}`).fill(value);
    await page.getByRole("button", { name: "Write" }).click();
    await page.waitForFunction(() => document.querySelector(".said").textContent && !document.getElementById("write").disabled);
  };
  const said = () => page.locator(".said").first().textContent();

  await page.goto(`${origin}/try?name=grammar`);
  await write({ prompt: "", tokens: "4" });
  await page.getByLabel("Text 1; the arrow keys go from token to token").focus();
  await page.keyboard.press("ArrowRight");
  const bars = await page.locator(".side .beside").first().textContent();
  check(/KL\(model‖exact\) [\d.]+ nats/.test(bars), `beside a token of a grammar stands “${bars.slice(0, 200)}”`);
  await picture("grammar");

  await page.goto(`${origin}/try?name=voters`);
  await write({ prompt: "The ", tokens: "6" });
  await page.locator(".votes tbody tr").first().waitFor();
  const votes = await page.locator(".votes tbody tr td:first-child, .votes tbody tr th").allTextContents();
  check(votes.reduce((sum, count) => sum + Number(count), 0) === 3, `three members give the votes ${votes}`);
  await picture("votes");

  await page.locator("#reward").selectOption("pattern");
  await write({ "reward-of": "(" });
  check(/is not a regular expression|pattern/.test(await said()), `a pattern that is none: “${await said()}”`);
  await write({ "reward-of": "e" });
  check(/^\d+ tokens?;/.test(await said()), `a text that is steered: “${await said()}”`);
  await picture("steered");
}
