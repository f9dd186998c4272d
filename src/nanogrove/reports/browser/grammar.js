// The exact distribution of the next token of a grammar, by the recursions of `nanogrove/synthetic/tree.py`: upwards the
// probability of what is below a node, downwards that of its symbol given all to the left of it.
//
// The rules of a level are {parents [n], children: s times [n], shares [n]}, shares null where all are equally likely.

function grammar({ v, s, depth, rules, shares }) {
  const numbers = new Int32Array(bytesOf(rules)), count = shares ? v * v * v : numbers.length / (s * depth);
  const levels = Array.from({ length: shares ? 1 : depth }, (_, level) => ({
    parents: Int32Array.from({ length: count }, (_, rule) => Math.floor((rule * v) / count)),
    children: Array.from({ length: s }, (_, child) =>
      shares
        ? Int32Array.from({ length: count }, (_, rule) => (child ? rule : Math.floor(rule / v)) % v)
        : Int32Array.from({ length: count }, (_, rule) => numbers[(level * count + rule) * s + child]),
    ),
    shares: shares ? new Float32Array(bytesOf(shares)) : null,
  }));
  return { v, s, depth, length: s ** depth, rulesOf: (level) => levels[levels.length === 1 ? 0 : level] };
}

function scaled(message) {
  const sum = message.reduce((a, b) => a + b, 0);
  return sum > 0 ? message.map((value) => value / sum) : message;
}

// What each rule of a level adds to `message [v]` at `to`: its share, times `alpha` of its parent where that is given,
// times the messages of its first children.
function sumOver({ parents, children, shares }, v, alpha, messages, to) {
  const sum = new Float64Array(v);
  for (let rule = 0; rule < parents.length; rule++) {
    let weight = (shares ? shares[rule] : 1) * (alpha ? alpha[parents[rule]] : 1);
    for (let child = 0; child < messages.length && weight; child++) weight *= messages[child][children[child][rule]];
    sum[to[rule]] += weight;
  }
  return scaled(sum);
}

// The message [v] of the node of a level whose first leaf is `first`; all its leaves are among `tokens`.
function inside(source, level, tokens, first) {
  if (level === source.depth) {
    const message = new Float64Array(source.v);
    message[tokens[first]] = 1;
    return message;
  }
  const width = source.s ** (source.depth - level - 1);
  const messages = Array.from({ length: source.s }, (_, child) => inside(source, level + 1, tokens, first + child * width));
  const rules = source.rulesOf(level);
  return sumOver(rules, source.v, null, messages, rules.parents);
}

// Probabilities [v] of the token after `tokens`; null after a whole sequence, and after what cannot occur.
function exactNext(source, tokens) {
  if (tokens.length >= source.length || !tokens.every((token) => token < source.v)) return null;
  let alpha = new Float64Array(source.v).fill(1 / source.v), first = 0;
  for (let level = 0; level < source.depth; level++) {
    const width = source.s ** (source.depth - level - 1), child = Math.floor((tokens.length - first) / width);
    const left = Array.from({ length: child }, (_, other) => inside(source, level + 1, tokens, first + other * width));
    const rules = source.rulesOf(level);
    alpha = sumOver(rules, source.v, alpha, left, rules.children[child]);
    first += child * width;
  }
  return alpha.some((share) => share > 0) ? alpha : null;
}
