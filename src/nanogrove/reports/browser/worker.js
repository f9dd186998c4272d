// The worker of a page, in which the model computes. It takes {model: JSON} once, then {write: {number, prompt, …}} and
// {stop: true}, and posts {ready}, {error}, and of a text {number, steps}, {number, done} or {number, error}.

const PAUSE = 40; // milliseconds after which what was written is posted, and messages are heard

let net = null, voters = [], tokens = null, source = null, current = 0;

self.onmessage = ({ data }) => {
  try {
    if (data.model) {
      const model = JSON.parse(data.model);
      net = network(model.config, model.tensors);
      voters = model.voters.map((tensors) => network(model.config, tensors));
      tokens = tokenizer(model.tokenizer);
      source = model.grammar && grammar(model.grammar);
      self.postMessage({ ready: true });
    }
  } catch (error) {
    self.postMessage({ error: error.message });
  }
  if (data.stop) current = 0;
  if (data.write) write(data.write);
};

async function write({ number, prompt, ...options }) {
  current = number;
  let steps = [], posted = performance.now();
  const heard = () => new Promise((resolve) => setTimeout(resolve));
  try {
    for (const step of writtenAndVoted(encode(tokens, prompt), options)) {
      steps.push(step);
      if (performance.now() - posted < PAUSE) continue;
      self.postMessage({ number, steps });
      await heard();
      if (current !== number) return;
      [steps, posted] = [[], performance.now()];
    }
    self.postMessage({ number, steps });
    self.postMessage({ number, done: true });
  } catch (error) {
    self.postMessage({ number, error: error.message });
  }
}

function* writtenAndVoted(prompt, options) {
  for (const step of writing(net, tokens, prompt, options, source)) yield named(step);
  if (voters.length) yield { votes: yield* voting(voters, tokens, prompt, options.count) };
}

// A step whose tokens have names for people.
function named(step) {
  if (step.token === undefined || step.token === null) return step;
  const { text, probability } = step, name = (token) => shownToken(tokens, token);
  const pairs = (others) => others && others.map((other) => [name(other.token), other.probability]);
  return { text, probability, token: name(step.token), likeliest: pairs(step.alternatives), exact: pairs(step.exact) };
}
