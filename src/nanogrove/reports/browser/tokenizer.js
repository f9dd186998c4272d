// The tokenizer of a page: {kind, names, special, end, merges, digits}. `names` are the tokens by number, spelled as in
// tokenizer.json; kinds are characters, words between spaces, and byte-level BPE, where a token is spelled in letters
// that stand for bytes.

// GPT-2's rule of splitting text into words. JavaScript's \s has U+FEFF and lacks U+0085, so blanks are written out.
const BLANK = "\\t-\\r\\x85\\p{Z}";
const WORDS = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${BLANK}\\p{L}\\p{N}]+|[${BLANK}]+(?![^${BLANK}])|[${BLANK}]+`;

// GPT-2's letter for each byte: printable ones are themselves, the others follow from U+0100 on.
function byteLetters() {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : 256 + others++));
}

function tokenizer({ kind, names, special, end, merges, split }) {
  const left = new Set(special), letters = byteLetters();
  const numbers = new Map(names.map((name, number) => [name, number]).filter(([name, number]) => name !== null && !left.has(number)));
  const ranks = new Map(merges.map((merge, rank) => [merge, rank]));
  const bytes = new Map(letters.map((letter, byte) => [letter, byte]));
  return { kind, names, special: left, end, split, numbers, letters, ranks, bytes };
}

// The token numbers of a text. Throws an Error, whose message is for people, for a text that has none.
function encode(tokens, text) {
  if (/\p{Cs}/u.test(text)) throw new Error("The prompt holds half a character; leave it out.");
  if (tokens.kind === "bpe") return wordsOf(tokens, text).flatMap((word) => encodeWord(tokens, word));
  const characters = tokens.kind === "characters";
  const parts = characters ? [...text] : text.split(new RegExp(`[${BLANK}]+`, "u")).filter((word) => word);
  return parts.map((part, position) => {
    if (tokens.numbers.has(part)) return tokens.numbers.get(part);
    throw new Error(`${characters ? "Character" : "Word"} ${JSON.stringify(part)} at position ${position} is not in this model's vocabulary; leave it out.`);
  });
}

function wordsOf({ split }, text) {
  if (split === "bytes") return text ? [text] : [];
  const parts = split === "digits" ? text.match(/\p{N}|\P{N}+/gu) || [] : [text];
  return parts.flatMap((part) => part.match(new RegExp(WORDS, "gu")) || []);
}

function encodeWord({ letters, ranks, numbers }, word) {
  let parts = Array.from(new TextEncoder().encode(word), (byte) => letters[byte]);
  for (;;) {
    let best = Infinity;
    for (let i = 0; i + 1 < parts.length; i++) best = Math.min(best, rankOf(ranks, parts[i], parts[i + 1]));
    if (best === Infinity) break;
    parts = merged(ranks, parts, best);
  }
  return parts.map((part) => {
    if (numbers.has(part)) return numbers.get(part);
    throw new Error(`This model's vocabulary lacks a part of ${JSON.stringify(word.slice(0, 40))}; leave it out.`);
  });
}

function rankOf(ranks, left, right) {
  const rank = ranks.get(`${left} ${right}`);
  return rank === undefined ? Infinity : rank;
}

// Parts with the merge of rank `best` applied from the left on, up to where it makes a pair that comes before it.
function merged(ranks, parts, best) {
  const result = [];
  for (let i = 0; i < parts.length; i++) {
    if (i + 1 >= parts.length || rankOf(ranks, parts[i], parts[i + 1]) !== best) {
      result.push(parts[i]);
      continue;
    }
    const whole = parts[i] + parts[i + 1], before = result.length ? rankOf(ranks, result[result.length - 1], whole) : Infinity;
    result.push(whole);
    i++;
    const after = i + 1 < parts.length ? rankOf(ranks, whole, parts[i + 1]) : Infinity;
    if (Math.min(before, after) < best) return [...result, ...parts.slice(i + 1)];
  }
  return result;
}

// A function from each token that follows to the text that is certain with it; of no token, what is left at the end.
// Words have a space between them, and before the first one where text is `before` it.
function decoder({ kind, names, special, bytes }, before) {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  let first = !before;
  return (token) => {
    if (token === null) return kind === "bpe" ? utf8.decode() : "";
    const name = names[token];
    if (special.has(token) || name === null || name === undefined) return "";
    if (kind === "bpe") return utf8.decode(Uint8Array.from([...name], (letter) => bytes.get(letter)), { stream: true });
    const separator = kind === "words" && !first ? " " : "";
    first = false;
    return separator + name;
  };
}

// A token as people read it: bytes that are no whole character by their numbers, special tokens by their names.
function shownToken(tokens, token) {
  const name = tokens.names[token];
  if (name === null || name === undefined) return `[unused ${token}]`;
  if (tokens.kind !== "bpe" || tokens.special.has(token)) return name;
  const raw = Uint8Array.from([...name], (letter) => tokens.bytes.get(letter));
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(raw);
  return text.includes("\ufffd") ? Array.from(raw, (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join("") : text;
}
