// Token ids of texts, as src/diffusers_ccld/onnx/text.py makes them; a test compares the two.

const WINDOWS_1252 =
  "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ"; // the characters of the bytes 0x80 to 0x9f
const PYTHON_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/gu;
const CHARACTER_REFERENCE = /&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu;
const SPECIAL_TOKENS = /(<\|startoftext\|>|<\|endoftext\|>)/u;
const NAMED_WORDS = /[\p{L}\p{Nl}\p{No}]{2,}/gu; // without decimal digits
// Thai, Lao, Burmese, Khmer, Japanese and Chinese letters: no spaces separate their words.
const WITHOUT_SPACES = /[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]/u;
const SMALL_VOCABULARY = 10_000; // tokens; larger ones stand for all English words
const SIMILARITY = 0.82; // of a suggested word at least
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;

/** Python's html.unescape; `entities` is its table html.entities.html5. */
function unescapeHtml(text, entities) {
  return text.replace(CHARACTER_REFERENCE, (whole, reference) => {
    if (reference[0] === "#") return numericCharacter(reference.slice(1).replace(/;$/, ""));
    for (let end = reference.length; end > 1; end--) {
      const name = reference.slice(0, end);
      if (Object.hasOwn(entities, name)) return entities[name] + reference.slice(end);
    }
    return whole;
  });
}

function numericCharacter(digits) {
  const code = /^x/i.test(digits) ? parseInt(digits.slice(1), 16) : parseInt(digits, 10);
  if (code >= 0x80 && code < 0xa0) return WINDOWS_1252[code - 0x80];
  if (code === 0 || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff) return "\ufffd";
  const isInvalid =
    (code < 0x20 && ![0x09, 0x0a, 0x0c, 0x0d].includes(code)) ||
    code === 0x7f ||
    (code >= 0xfdd0 && code < 0xfdf0) ||
    (code & 0xfffe) === 0xfffe;
  return isInvalid ? "" : String.fromCodePoint(code);
}

/** Decodes UTF-8 that was read as Latin-1 or Windows-1252. */
function inTheRightEncoding(text) {
  if (/^[\x00-\x7f]*$/u.test(text)) return text;
  const characters = [...text];
  const latin1 = characters.map((character) => character.codePointAt(0));
  const windows1252 = latin1.map((code, i) => {
    if (code < 0x80 || (code >= 0xa0 && code < 0x100)) return code;
    return code < 0x100 ? 256 : 0x80 + (WINDOWS_1252.indexOf(characters[i]) + 257) % 257;
  });
  for (const bytes of [latin1, windows1252]) {
    if (bytes.some((byte) => byte > 255)) continue;
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
    } catch {
      continue;
    }
  }
  return text;
}

function repaired(text, entities) {
  if (!text.includes("<")) text = unescapeHtml(text, entities);
  return inTheRightEncoding(text.replace(/\x1b\[[\d;]*[a-zA-Z]/gu, ""))
    .replace(/[\x80-\x9f]/gu, (character) => WINDOWS_1252[character.charCodeAt(0) - 0x80])
    .replace(/\u0149/gu, "ʼn")
    .replace(/\ufb05/gu, "ſt")
    .replace(/[\u0132\u0133\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb04\ufb06\uff01-\uffef]/gu, (c) => c.normalize("NFKC"))
    .replace(/\u3000/gu, " ")
    .replace(/[\u02bc\u2018-\u201b]/gu, "'")
    .replace(/[\u201c-\u201f]/gu, '"')
    .replace(/\r\n|[\r\u2028\u2029\x85]/gu, "\n")
    .replace(/[\ud800-\udfff]/gu, "\ufffd")
    .replace(/[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/gu, "")
    .normalize("NFC");
}

/** Repairs a text, decodes HTML entities, collapses white space, lowers the case. */
export function cleanText(text, entities) {
  for (let before = null; text !== before; ) {
    before = text;
    text = repaired(text, entities);
  }
  return unescapeHtml(unescapeHtml(text, entities), entities).replace(PYTHON_SPACE, " ").replace(/^ | $/gu, "").toLowerCase();
}

/** The words of a text that a small vocabulary lacks, as src/diffusers_ccld/utils/words.py finds them. */
export function unknownWords(text, vocabulary) {
  if (Object.keys(vocabulary).length >= SMALL_VOCABULARY) return [];
  const words = new Set(text.normalize("NFC").toLowerCase().match(NAMED_WORDS) ?? []);
  const named = [...words].filter((word) => !WITHOUT_SPACES.test(word));
  return named.filter((word) => !Object.hasOwn(vocabulary, `${byteLevel(word).join("")}</w>`));
}

/** The known word that resembles a word most, as `similar_word` of src/diffusers_ccld/utils/words.py finds it, or null. */
export function similarWord(word, known) {
  const length = (text) => [...text].length;
  const similarity = (other) => (2 * numMatches([...other], [...word])) / (length(other) + length(word));
  const ranked = known
    .filter((other) => [...other][0] === [...word][0])
    .map((other) => [similarity(other), other])
    .filter(([share]) => share >= SIMILARITY)
    .sort(([a, one], [b, other]) => b - a || (other > one ? 1 : -1));
  return ranked[0]?.[1] ?? null;
}

/** The characters of the longest part that two texts share, and of the longest ones to its left and right (difflib). */
function numMatches(a, b) {
  let [longest, startA, startB] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < b.length; j++) {
      let length = 0;
      while (i + length < a.length && a[i + length] === b[j + length]) length++;
      if (length > longest) [longest, startA, startB] = [length, i, j];
    }
  }
  if (longest === 0) return 0;
  const left = numMatches(a.slice(0, startA), b.slice(0, startB));
  return longest + left + numMatches(a.slice(startA + longest), b.slice(startB + longest));
}

/** The printable characters that stand for the bytes 0 to 255 in a byte-level vocabulary. */
function byteCharacters() {
  const isPrintable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte < 0x100 && byte !== 0xad);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : next++));
}

const BYTE_CHARACTERS = byteCharacters();

/** The characters of a text in a byte-level vocabulary. */
function byteLevel(text) {
  return Array.from(new TextEncoder().encode(text), (byte) => BYTE_CHARACTERS[byte]);
}

/** CLIP's byte-pair tokenizer, from a file in the format of Hugging Face's tokenizers. */
export class TextEncoding {
  #vocabulary;
  #ranks;
  #words = new Map();
  #entities;
  #contextLength;

  constructor(file, contextLength, entities) {
    this.#vocabulary = file.model.vocab;
    const names = file.model.merges.map((merge) => (Array.isArray(merge) ? merge.join(" ") : merge));
    this.#ranks = new Map(names.map((name, rank) => [name, rank]));
    for (const token of file.added_tokens) this.#vocabulary[token.content] = token.id;
    this.#entities = entities;
    this.#contextLength = contextLength;
  }

  /** The words of texts that the tokenizer spells, because its vocabulary is small and lacks them. */
  unknownWords(texts) {
    return unknownWords(texts.join(" "), this.#vocabulary);
  }

  /** The ids of a text: a start, the text, an end, and zeros up to the context length. */
  encode(text) {
    const start = this.#vocabulary["<|startoftext|>"];
    const end = this.#vocabulary["<|endoftext|>"];
    const ids = [start];
    for (const part of cleanText(text, this.#entities).split(SPECIAL_TOKENS)) {
      if (SPECIAL_TOKENS.test(part)) ids.push(this.#vocabulary[part]);
      else for (const [word] of part.normalize("NFC").toLowerCase().matchAll(WORDS)) ids.push(...this.#wordIds(word));
    }
    ids.push(end);
    if (ids.length > this.#contextLength) ids.splice(this.#contextLength - 1, Infinity, end);
    return [...ids, ...new Array(this.#contextLength - ids.length).fill(0)];
  }

  #wordIds(word) {
    if (!this.#words.has(word)) {
      const characters = byteLevel(word);
      characters[characters.length - 1] += "</w>";
      this.#words.set(word, this.#merged(characters).map((token) => this.#vocabulary[token]));
    }
    return this.#words.get(word);
  }

  /** Joins the pair of the lowest rank, everywhere, until no pair has a rank. */
  #merged(tokens) {
    for (;;) {
      const ranks = tokens.slice(1).map((token, i) => this.#ranks.get(`${tokens[i]} ${token}`) ?? Infinity);
      const lowest = Math.min(...ranks);
      if (lowest === Infinity) return tokens;
      const joined = [];
      for (let i = 0; i < tokens.length; i++) joined.push(ranks[i] === lowest ? tokens[i] + tokens[++i] : tokens[i]);
      tokens = joined;
    }
  }
}
