// Pages that say that something cannot be done: 404, 409, and 403 for who does not have the key.
export async function refused({ page, origin, check, picture, stranger, allow }) {
  for (const status of [403, 404, 409]) allow(status);
  const says = async (tab, words) => check((await tab.textContent("body")).includes(words), `${tab.url()} does not say “${words}”`);
  check((await page.goto(`${origin}/nowhere`)).status() === 404, "there is a page called nowhere");
  check((await page.goto(`${origin}/run?name=nowhere`)).status() === 404, "there is a run called nowhere");
  await says(page, "no run is here");
  await picture("no-run");
  check((await page.goto(`${origin}/new?run=damaged`)).status() === 409, "a run begins from the preset of a damaged one");
  await picture("not-done");
  const tab = await stranger();
  check((await tab.goto(origin)).status() === 403, "who has no key comes in");
  await says(tab, "give the address that `nanogrove ui` printed");
  await picture("no-key", { tab });
}
