// Runs what a page computes with, under node: a list of jobs as JSON from standard input, answers to standard output.
//
//   node browser.mjs CODE < jobs.json
//
// CODE is a file with all scripts of the worker but its messages. A job is {model: JSON, texts, random, prompt, logits, …}:
// texts to encode, prefixes for a grammar, the seed of random numbers, what is to be continued with the settings that are left, and token
// numbers after which logits are asked for.
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

runInThisContext(readFileSync(process.argv[2], "utf8"));
const answers = JSON.parse(readFileSync(0, "utf8")).map(({ model, prompt, texts = [], logits, random, prefixes = [], ...options }) => {
  const { config, tensors, tokenizer: table, grammar: rules } = JSON.parse(model), tokens = tokenizer(table), answer = {};
  const source = rules && grammar(rules);
  answer.exact = prefixes.map((prefix) => Array.from(exactNext(source, prefix) || []));
  answer.texts = texts.map((text) => {
    try {
      return encode(tokens, text);
    } catch (error) {
      return error.message;
    }
  });
  if (random !== undefined) {
    const next = randomNumbers(random);
    answer.random = Array.from({ length: 1000 }, next);
  }
  if (prompt === undefined) return answer;
  const voters = JSON.parse(model).voters.map((voter) => network(config, voter));
  if (voters.length) {
    const votes = voting(voters, tokens, encode(tokens, prompt), options.count);
    let step = votes.next();
    while (!step.done) step = votes.next();
    answer.votes = step.value;
  }
  const net = network(config, tensors), steps = [...writing(net, tokens, encode(tokens, prompt), options, source)];
  answer.steps = steps.filter((step) => step.token !== undefined);
  if (!logits) return answer;
  for (const { scores } of config.memory_tokens ? rolling(net, logits) : sliding(net, logits)) {
    if (!scores) continue;
    answer.logits = Array.from(scores);
    break;
  }
  return answer;
});
console.log(JSON.stringify(answers));
