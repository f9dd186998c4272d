// A text that grows, as in `nanogrove/decoding/reading.py` and `rolling.py`: the context slides by halves, and with a
// rolling memory a text is read segment by segment.
//
// Reading is done in parts, between which a generator yields, so that it can be shown and stopped.

const PART = 32; // tokens

// Reads tokens after those of the cache, part by part; returns their last state [C].
function* readInParts(net, cache, tokens) {
  let state = null;
  for (let at = 0; at < tokens.length; at += PART) {
    const states = readTokens(net, cache, tokens.slice(at, at + PART));
    state = states.subarray(states.length - net.config.n_embd);
    yield { reading: Math.min(at + PART, tokens.length), of: tokens.length };
  }
  return state;
}

// Yields the scores of the next token of a text, and takes that token, which it appends to `ids`.
function* sliding(net, ids) {
  const { block_size: size } = net.config;
  let cache = emptyCache(net), state = yield* readInParts(net, cache, ids.slice(-size));
  for (;;) {
    ids.push(yield { scores: scoresAfter(net, state) });
    if (cache.length < size) {
      state = readTokens(net, cache, ids.slice(-1));
    } else {
      cache = emptyCache(net);
      state = yield* readInParts(net, cache, ids.slice(-Math.max(Math.floor(size / 2), 1)));
    }
  }
}

// As `sliding`, of a model with a rolling memory: its cache holds the memory and one segment.
function* rolling(net, ids) {
  const { memory_tokens: count, memory_segment: segment, n_embd: width } = net.config;
  const closed = Math.floor((ids.length - 1) / segment) * segment;
  let memory = net.memory.start, cache = opened(net, memory);
  for (let at = 0; at < closed; at += segment) {
    yield* readInParts(net, cache, ids.slice(at, at + segment));
    memory = written(net, cache, memory);
    cache = opened(net, memory);
  }
  let state = yield* readInParts(net, cache, ids.slice(closed));
  for (;;) {
    const token = yield { scores: scoresAfter(net, state) };
    ids.push(token);
    if (cache.length === count + segment) {
      memory = written(net, cache, memory);
      cache = opened(net, memory);
    }
    state = readTokens(net, cache, [token]);
  }
}

// A cache that holds a memory alone.
function opened(net, memory) {
  const cache = emptyCache(net);
  through(net, cache, memory.slice(), new Int32Array(net.config.memory_tokens));
  return cache;
}

// The memory that a model writes after a segment.
function written(net, cache, memory) {
  const inputs = memory.map((value, i) => value + net.memory.write[i]);
  return through(net, cache, inputs, new Int32Array(net.config.memory_tokens));
}

function likeliest(shares) {
  return largestOf(shares, 5).filter((token) => shares[token] > 0).map((token) => ({ token, probability: shares[token] }));
}

// Continues `prompt`, token numbers: yields {reading, of} while it reads, and for each new token
// {token, text, probability, alternatives}: the text that is certain with it, the model's own probability at a
// temperature of 1, and the likeliest tokens with theirs. The last one, `token: null`, has the text that is left.
// Of a grammar `source`, if it is not null, `exact` has the likeliest tokens by its rules, null where they say nothing.
function* writing(net, tokens, prompt, { count, seed, ...sampling }, source = null) {
  const ids = prompt.length ? prompt.slice() : [tokens.end], random = randomNumbers(seed);
  const decoded = decoder(tokens, prompt.length > 0);
  const steps = net.config.memory_tokens ? rolling(net, ids) : sliding(net, ids);
  let step = steps.next();
  for (let number = 0; number < count; ) {
    if (!step.value.scores) {
      yield step.value;
      step = steps.next();
      continue;
    }
    const { scores } = step.value;
    if (!Number.isFinite(scores.reduce((a, b) => (a >= b ? a : b)))) throw new Error("The model's scores of the next token are not finite, so it writes nothing.");
    const shares = softmax(scores), token = choose(scores, sampling, random);
    const exact = source && exactNext(source, ids.slice(ids.lastIndexOf(tokens.end) + 1));
    yield { token, text: decoded(token), probability: shares[token], alternatives: likeliest(shares), exact: exact && likeliest(exact) };
    number++;
    if (token === tokens.end) break;
    if (number < count) step = steps.next(token);
  }
  yield { token: null, text: decoded(null) };
}
