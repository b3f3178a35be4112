// Names of picture files, as src/diffusers_ccld/utils/file_names.py makes them; a test compares the two.

const LONGEST = 60; // characters
const BETWEEN_WORDS = /(?:[^\p{L}\p{M}\p{N}]|[\u{10000}-\u{10ffff}])+/gu;

/** The beginning of a picture's file name, from its prompt: "a-rose-in-bloom" for "A rose, in bloom". */
export function fileStem(text) {
  const parts = text.normalize("NFC").toLowerCase().replace(BETWEEN_WORDS, " ").trim().split(" ");
  const words = parts.filter((part) => /[\p{L}\p{N}]/u.test(part)).slice(0, LONGEST); // not what is left of an emoji
  while (words.length > 1 && words.join("-").length > LONGEST) words.pop();
  return words.join("-").slice(0, LONGEST) || "picture";
}
