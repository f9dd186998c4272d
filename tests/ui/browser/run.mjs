// A run called `live`, which is under way in the process `asked.trainer`: its curves grow; it is killed and continued,
// stopped and continued; notes are kept, and found.
export async function run({ page, origin, check, picture, drawn, until, state, steps, past, lines }, { trainer }) {
  const reach = async () => (await lines())[0].x.at(-1);
  const press = (name) => page.getByRole("button", { name, exact: true }).click();
  await page.goto(`${origin}/run?name=live`);
  await drawn();
  const before = await reach();
  await past(await steps());
  await until((before) => document.querySelector("figure > div").data[0].x.at(-1) > before, before);
  process.kill(trainer, "SIGSTOP"); // which takes the CPU from whoever judges the page
  await picture("live", { part: "#status" });
  process.kill(trainer, "SIGCONT");

  // Killed between two checkpoints, which are 100 steps apart, and continued, it is drawn once.
  await until(() => document.querySelector("#status progress").value % 100 > 40);
  process.kill(trainer, "SIGKILL");
  await state("stopped");
  const killed = await steps();
  await press("Continue");
  await state("running");
  await past(killed);
  await drawn();
  const { x } = (await lines())[0];
  check(x.every((at, n) => !n || at > x[n - 1]), "a run that was killed and continued is drawn twice");

  await press("Stop and save");
  await state("stopped");
  const stopped = await steps();
  await page.waitForTimeout(1500);
  check((await steps()) === stopped, "a stopped run goes on");
  await press("Continue");
  await past(stopped);
  await page.getByLabel("Tags").fill("odd, <b>wide</b>");
  await page.getByLabel("Note").fill("a spike\nat the end");
  await press("Save");
  await page.waitForURL(/#notes$/);
  check((await page.getByLabel("Tags").inputValue()) === "odd, <b>wide</b>", "the tags are not kept");
  await press("Stop and save");
  await state("stopped");
  await page.goto(`${origin}/?search=wide&sort=steps`);
  check((await page.locator("#runs tbody tr").count()) === 1, "a search for a tag does not find its run");
}
