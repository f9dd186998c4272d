// The model of `nanogrove/model/gpt.py`, for one text: every setting that a GPT can have but `scalar`.
//
// Letters: T positions that are read at once, C = n_embd, D = the width of a head, G heads of keys and values.

function network(config, tensors) {
  const tables = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, table(tensor)]));
  const vector = (name) => (tables[name] ? tables[name].numbers : null);
  const map = (name) => ({ weight: tables[`${name}.weight`], bias: vector(`${name}.bias`) });
  const norm = (name) => ({ weight: vector(`${name}.weight`), bias: vector(`${name}.bias`) });
  const blocks = Array.from({ length: config.n_layer }, (_, layer) => {
    const of = (name) => `blocks.${layer}.${name}`;
    return {
      attentionNorm: norm(of("attention_norm")), qkv: map(of("attention.qkv")), out: map(of("attention.out")),
      qNorm: norm(of("attention.q_norm")), kNorm: norm(of("attention.k_norm")),
      mlpNorm: norm(of("mlp_norm")), up: map(of("mlp.up")), down: map(of("mlp.down")),
    };
  });
  return {
    config, blocks, embed: tables["embed.weight"], head: tables["head.weight"] || tables["embed.weight"],
    position: tables["position.weight"], shift: vector("shift.weight"), embedNorm: norm("embed_norm"), norm: norm("norm"),
    memory: { start: vector("memory.start"), write: vector("memory.write") },
    rotary: config.position === "rotary" ? rotaryTable(config) : null,
  };
}

// Cosines and sines [context, D / 2], in the steps in which nanogrove rounds them to float32.
function rotaryTable({ context, head_width: width, rope_theta: theta }) {
  const half = width / 2, cosine = new Float32Array(context * half), sine = new Float32Array(context * half);
  for (let i = 0; i < half; i++) {
    const frequency = Math.fround(theta ** -Math.fround((2 * i) / width));
    for (let position = 0; position < context; position++) {
      const angle = Math.fround(position * frequency);
      cosine[position * half + i] = Math.cos(angle);
      sine[position * half + i] = Math.sin(angle);
    }
  }
  return { cosine, sine };
}

// What was read of a text: keys and values of each layer, the latest token, and where its document begins.
function emptyCache({ config }) {
  const size = config.context * config.kv_heads * config.head_width;
  const layers = Array.from({ length: config.n_layer }, () => ({ keys: new Float32Array(size), values: new Float32Array(size) }));
  return { layers, length: 0, previous: null, start: 0 };
}

// Normalises `x` from `at` on, `size` numbers, in place.
function normalise(config, { weight, bias }, x, at, size) {
  let mean = 0, square = 0;
  if (config.norm === "layernorm") {
    for (let i = 0; i < size; i++) mean += x[at + i];
    mean /= size;
  }
  for (let i = 0; i < size; i++) square += (x[at + i] - mean) ** 2;
  const factor = 1 / Math.sqrt(square / size + config.norm_eps);
  for (let i = 0; i < size; i++) {
    x[at + i] = (x[at + i] - mean) * factor * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
  }
}

// A copy of `x [T, C]` with each position normalised.
function normalised({ config }, norm, x) {
  const y = x.slice();
  for (let at = 0; at < y.length; at += config.n_embd) normalise(config, norm, y, at, config.n_embd);
  return y;
}

// Embeddings [T, C] of tokens that follow those of the cache, shifted where the model does so.
function embedded({ config, embed, shift }, cache, tokens) {
  const width = config.n_embd, x = new Float32Array(tokens.length * width), marked = config.within_documents;
  tokens.forEach((token, t) => addRow(embed, token, x, t * width));
  if (!shift) return x;
  const y = x.slice(), before = new Float32Array(width);
  if (cache.previous !== null) addRow(embed, cache.previous, before, 0);
  for (let t = 0; t < tokens.length; t++) {
    if (marked && tokens[t] === config.document_mark) continue;
    for (let i = 0; i < width; i++) y[t * width + i] += shift[i] * (t ? x[(t - 1) * width + i] : before[i]);
  }
  return y;
}

// Reads tokens after those of the cache: their final states [T, C].
function readTokens(net, cache, tokens) {
  const { config } = net, starts = new Int32Array(tokens.length), x = embedded(net, cache, tokens);
  for (let t = 0; t < tokens.length; t++) {
    if (config.within_documents && tokens[t] === config.document_mark) cache.start = cache.length + t;
    starts[t] = cache.start;
  }
  cache.previous = tokens[tokens.length - 1];
  return through(net, cache, x, starts);
}

// Final states [T, C] of inputs `x [T, C]` after those of the cache, which sees them from `starts [T]` on.
function through(net, cache, x, starts) {
  const { config, position, embedNorm } = net, width = config.n_embd, count = x.length / width;
  if (position) for (let t = 0; t < count; t++) addRow(position, cache.length + t, x, t * width);
  if (config.embed_norm) for (let t = 0; t < count; t++) normalise(config, embedNorm, x, t * width, width);
  net.blocks.forEach((block, layer) => {
    add(x, attention(net, block, cache, layer, normalised(net, block.attentionNorm, x), starts));
    add(x, mlp(net, block, normalised(net, block.mlpNorm, x)));
  });
  cache.length += count;
  return normalised(net, net.norm, x);
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

function attention(net, { qkv, out, qNorm, kNorm }, cache, layer, x, starts) {
  const { config } = net, { n_head: heads, kv_heads: groups, head_width: width } = config, count = starts.length;
  const all = product(qkv.weight, qkv.bias, x, count), each = (heads + 2 * groups) * width;
  const { keys, values } = cache.layers[layer], y = new Float32Array(count * heads * width);
  for (let t = 0; t < count; t++) {
    const at = t * each, place = cache.length + t;
    for (let h = 0; h < heads + groups; h++) {
      if (config.qk_norm) normalise(config, h < heads ? qNorm : kNorm, all, at + h * width, width);
      if (net.rotary) rotate(net.rotary, all, at + h * width, width, place);
    }
    keys.set(all.subarray(at + heads * width, at + (heads + groups) * width), place * groups * width);
    values.set(all.subarray(at + (heads + groups) * width, at + each), place * groups * width);
  }
  const scores = new Float64Array(cache.length + count);
  for (let t = 0; t < count; t++) {
    for (let h = 0; h < heads; h++) {
      const group = Math.floor((h * groups) / heads) * width, to = (t * heads + h) * width;
      attend(all, t * each + h * width, keys, values, groups * width, group, width, starts[t], cache.length + t, scores, y, to);
    }
  }
  return product(out.weight, out.bias, y, count);
}

// Rotates each pair (i, i + D/2) of a head by its position's angle.
function rotate({ cosine, sine }, x, at, width, place) {
  const half = width / 2;
  for (let i = 0; i < half; i++) {
    const c = cosine[place * half + i], s = sine[place * half + i], a = x[at + i], b = x[at + half + i];
    x[at + i] = a * c - b * s;
    x[at + half + i] = b * c + a * s;
  }
}

// One head at one position: the mean of the values `start … end`, weighed by the softmax of q·k / √D, into `y` at `to`.
function attend(q, at, keys, values, stride, group, width, start, end, scores, y, to) {
  const factor = 1 / Math.sqrt(width);
  let largest = -Infinity, sum = 0;
  for (let p = start, k = start * stride + group; p <= end; p++, k += stride) {
    let score = 0;
    for (let i = 0; i < width; i++) score += q[at + i] * keys[k + i];
    scores[p] = score * factor;
    if (scores[p] > largest) largest = scores[p];
  }
  for (let p = start; p <= end; p++) sum += scores[p] = Math.exp(scores[p] - largest);
  for (let p = start, v = start * stride + group; p <= end; p++, v += stride) {
    const share = scores[p] / sum;
    for (let i = 0; i < width; i++) y[to + i] += share * values[v + i];
  }
}

function mlp({ config }, { up, down }, x) {
  const count = x.length / config.n_embd, inner = product(up.weight, up.bias, x, count);
  if (config.mlp === "swiglu") return product(down.weight, down.bias, gated(inner, count, up.weight.rows / 2), count);
  const root = Math.sqrt(2 / Math.PI);
  for (let i = 0; i < inner.length; i++) {
    const v = inner[i];
    inner[i] = config.mlp === "gelu" ? 0.5 * v * (1 + Math.tanh(root * (v + 0.044715 * v * v * v))) : v > 0 ? v * v : 0;
  }
  return product(down.weight, down.bias, inner, count);
}

// SwiGLU: of each position the first half, by SiLU, times the second.
function gated(inner, count, size) {
  const y = new Float32Array(count * size);
  for (let t = 0; t < count; t++) {
    for (let i = 0; i < size; i++) {
      const gate = inner[2 * t * size + i];
      y[t * size + i] = (gate / (1 + Math.exp(-gate))) * inner[(2 * t + 1) * size + i];
    }
  }
  return y;
}

// Scores [V] of the token after the last of `states [T, C]`.
function scoresAfter({ config, head }, states) {
  const scores = product(head, null, states.subarray(states.length - config.n_embd), 1), cap = config.logit_softcap;
  return cap ? scores.map((score) => cap * Math.tanh(score / cap)) : scores;
}
