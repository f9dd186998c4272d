// How the next token is chosen from scores, as in `nanogrove/decoding/sampling.py`: equal seeds give equal texts.

// Numbers in [0, 1) as `torch.rand` draws them in float64 from a generator of this seed: the Mersenne Twister
// (Matsumoto 1998), of which two words make a number of 53 bits.
function randomNumbers(seed) {
  const words = new Uint32Array(624);
  words[0] = seed % 2 ** 32;
  for (let i = 1; i < 624; i++) words[i] = Math.imul(1812433253, words[i - 1] ^ (words[i - 1] >>> 30)) + i;
  let next = 624;
  const renew = () => {
    for (let i = 0; i < 624; i++) {
      const y = (words[i] & 0x80000000) | (words[(i + 1) % 624] & 0x7fffffff);
      words[i] = words[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    next = 0;
  };
  const word = () => {
    if (next === 624) renew();
    let y = words[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
  return () => {
    const high = word(), low = word();
    return ((high & 0x1fffff) * 2 ** 32 + low) / 2 ** 53;
  };
}

// Probabilities of all tokens by their scores.
function softmax(scores) {
  const shares = new Float64Array(scores.length);
  let largest = -Infinity, sum = 0;
  for (let i = 0; i < scores.length; i++) if (scores[i] > largest) largest = scores[i];
  for (let i = 0; i < scores.length; i++) sum += shares[i] = Math.exp(scores[i] - largest);
  for (let i = 0; i < scores.length; i++) shares[i] /= sum;
  return shares;
}

// The numbers of the `count` largest values, the largest first; of equal ones the first.
function largestOf(values, count) {
  const best = [];
  for (let i = 0; i < values.length; i++) {
    if (best.length === count && values[i] <= values[best[count - 1]]) continue;
    let at = best.length;
    while (at && values[best[at - 1]] < values[i]) at--;
    best.splice(at, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}

// Keeps the k largest scores; ties with the k-th stay.
function cutToTopK(scores, k) {
  if (!k || k >= scores.length) return scores;
  const least = Float32Array.from(scores).sort()[scores.length - k];
  return scores.map((score) => (score < least ? -Infinity : score));
}

// Nucleus sampling (Holtzman 2020): the fewest most likely tokens whose probabilities sum to at least p.
function cutToTopP(scores, p) {
  if (!p || p >= 1) return scores;
  const shares = softmax(scores), order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  const kept = scores.map(() => -Infinity);
  let sum = 0;
  for (const token of order) {
    if (sum >= p) break;
    kept[token] = scores[token];
    sum += shares[token];
  }
  return kept;
}

// One token; `random` gives a number in [0, 1), and nothing is drawn at a temperature of 0.
function choose(scores, { temperature, topK, topP }, random) {
  if (!temperature) return largestOf(scores, 1)[0];
  const shares = softmax(cutToTopP(cutToTopK(scores.map((score) => score / temperature), topK), topP));
  for (let i = 1; i < shares.length; i++) shares[i] += shares[i - 1];
  const at = random() * shares[shares.length - 1], token = shares.findIndex((reached) => reached > at);
  return token < 0 ? shares.length - 1 : token;
}
