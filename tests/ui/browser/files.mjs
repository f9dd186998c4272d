// A file that is dropped: looked at, then a form of what it proposes with the figures of a dry run; and a wrong one.
export async function files({ page, origin, check, picture, allow }) {
  allow(422); // of a file that is none
  await page.goto(`${origin}/new`);
  const drop = (name, text) => page.evaluate(([name, text]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, [name, text]);
  await drop("wrong.bin", "\0\x01\x02");
  await page.waitForURL(/file=wrong/);
  check(await page.locator(".alert").first().isVisible(), "a file that is none has no error");
  await picture("file-wrong");
  await page.goto(`${origin}/new`);
  const words = ["a cat", "a dog", "the sun", "no one", "a stone"];
  const lines = Array.from({ length: 400 }, (_, n) => `${words[n % 5]} is near ${words[(n * n) % 3]} and line ${n}\n`);
  await drop("My <b>notes (1).txt", lines.join(""));
  await page.waitForURL(/file=My-b-notes-1/);
  await page.getByRole("heading", { name: "What it takes" }).waitFor();
  await picture("file");
}
