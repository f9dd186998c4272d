// Prints tokens per second of CPU time of a page's model under node, which compiles JavaScript as Chromium does.
//
//   node page_cpu.mjs PAGE TOKENS TEXTS
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const [page, tokens, texts] = process.argv.slice(2), html = readFileSync(page, "utf8");
const block = (id) => html.split(` id="writer-${id}">`)[1].split("</script>")[0];
globalThis.self = {}; // of the worker, whose messages nobody sends
runInThisContext(block("code"));
const [net, names] = runInThisContext("(json) => { const m = JSON.parse(json); return [network(m.config, m.tensors), tokenizer(m.tokenizer)]; }")(block("model"));
const write = runInThisContext("writing");
for (let seed = 0; seed < Number(texts); seed++) {
  const before = process.cpuUsage();
  let count = 0;
  for (const { token } of write(net, names, [], { count: Number(tokens), seed, temperature: 0.8, topK: 0, topP: 1 })) count += Number.isInteger(token);
  const { user, system } = process.cpuUsage(before);
  console.log(Math.round((count * 1e6) / (user + system)));
}
