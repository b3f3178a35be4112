// The check of a record in a picture, which may come from anywhere: src/diffusers_ccld/inference/record_checks.py in
// JavaScript, with the same sentences; a test compares the two.

const TASKS = ["paint", "image_to_image", "edit", "inpaint", "between"];
const LAST_SEED = 2n ** 63n - 1n;
const DEEPEST = 10; // nesting of a field
const LONGEST = 40; // characters of a value in a sentence

/** A picture's record that is damaged, or says what this page cannot do; its message is for the visitor. */
export class RecordError extends Error {}

const damaged = (what) => new RecordError(`The record of how the picture was painted is damaged: ${what}.`);

// JSON

const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g; // texts and numbers
const LONG_WHOLE = /^-?[1-9]\d{15,}$/;
const isMarked = (value) => typeof value === "string" && /^\0-?\d+$/.test(value); // no valid record has such a text

/** JSON without loss: whole numbers beyond those that JavaScript's numbers hold are of the type BigInt. */
export function parseJson(text) {
  const isRounded = (token) => LONG_WHOLE.test(token) && !Number.isSafeInteger(Number(token));
  const marked = text.replace(TOKENS, (token) => (isRounded(token) ? `"\\u0000${token}"` : token));
  return JSON.parse(marked, (_, value) => (isMarked(value) ? BigInt(value.slice(1)) : value));
}

/** The record that a picture has as a text. Throws a RecordError if it is not JSON. */
export function parseRecord(text) {
  try {
    return parseJson(text);
  } catch {
    throw damaged("it is not JSON");
  }
}

/** JSON in ASCII, which a tEXt chunk can hold. */
export function asciiJson(value) {
  return JSON.stringify(value).replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// Kinds of values: the name in a sentence, the test, and the value as this page takes it.

const isText = (value) => typeof value === "string" && !value.includes("\0") && (value.isWellFormed?.() ?? true);
const isNumber = (value, lowest = -1e300, highest = 1e300) =>
  (typeof value === "number" || typeof value === "bigint") && value >= lowest && value <= highest;
const isWhole = (value, lowest) =>
  isNumber(value, lowest, LAST_SEED) && (typeof value === "bigint" || Number.isInteger(value));
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isList = (value, fits, shortest = 0, longest = Infinity) =>
  Array.isArray(value) && value.length >= shortest && value.length <= longest && value.every(fits);

/** A text with its weight, and the hash of the file in a list of three. */
const isSource = (value, longest) =>
  isList(value, () => true, 2, longest) && isText(value[0]) && isNumber(value[1]) && value.slice(2).every(isText);

const asItIs = (value) => value;
const asNumber = (value) => Number(value) + 0; // there is no minus zero
const asWhole = (value) => (typeof value === "bigint" ? value : asNumber(value));
const asSources = (value) => value.map(([source, weight, ...file]) => [source, asNumber(weight), ...file]);

const text = ["a text", isText, asItIs];
const flag = ["true or false", (value) => typeof value === "boolean", asItIs];
const number = (lowest, highest) => {
  const bounds = lowest === undefined ? "" : ` from ${lowest}${highest === undefined ? "" : ` to ${highest}`}`;
  return [`a finite number${bounds}`, (value) => isNumber(value, lowest, highest), asNumber];
};
const whole = (lowest) => [`a whole number from ${lowest} to ${LAST_SEED}`, (value) => isWhole(value, lowest), asWhole];
const [share, count, seed] = [number(0, 1), whole(1), whole(0)];
const texts = ["a list of texts", (value) => isList(value, isText), asItIs];
const size = ["a width and a height", (value) => isList(value, count[1], 2, 2), (value) => value.map(asWhole)];
const sources = (longestEntry, shortest) => [
  "a list of pairs of a text and its weight",
  (value) => isList(value, (entry) => isSource(entry, longestEntry), shortest),
  asSources,
];

const FIELDS = {
  task: [`one of ${TASKS.join(", ")}`, (value) => TASKS.includes(value), asItIs],
  conditions: sources(2),
  prompt: text,
  waypoints: sources(3, 1),
  seeds: [
    `a list of whole numbers from 0 to ${LAST_SEED}`,
    (value) => isList(value, seed[1], 1),
    (value) => value.map(asWhole),
  ],
  images: texts,
  embeddings: texts,
  negative_prompt: text,
  image_prompt_weight: share,
  guidance_scale: number(),
  cloob_guidance: number(0),
  cloob_repeats: count,
  variation: share,
  picture: text,
  mask: text,
  strength: share,
  model: text,
  identity: text,
  fingerprint: text,
  steps: count,
  guidance_interval: [
    "a list of two times from 0 to 1",
    (value) => isList(value, (time) => isNumber(time, 0, 1), 2, 2) && value[0] <= value[1],
    (value) => value.map(asNumber),
  ],
  parallel_guidance: share,
  algorithm: text,
  timestep_schedule: text,
  eta: share,
  height: count,
  width: count,
  dtype: text,
  compiled: flag,
  runtime: text,
  version: text,
  seed,
  num_images: count,
  position: number(0),
  frames: whole(2),
  max_pictures: whole(2),
  loop: flag,
  frame_rate: number(0),
  size,
  trained_size: size,
};

function short(value) {
  const written = spelled(value);
  return written.length <= LONGEST ? written : `${written.slice(0, LONGEST)}…`;
}

/** A value as JSON in ASCII, which has whole numbers of any length and infinity. */
function spelled(value) {
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  if (Array.isArray(value)) return `[${value.map(spelled).join(",")}]`;
  if (!isObject(value)) return asciiJson(value);
  return `{${Object.entries(value).map(([name, part]) => `${asciiJson(name)}:${spelled(part)}`).join(",")}}`;
}

/** True if lists and objects are nested no deeper than a number of levels. */
function isFlat(value, most) {
  if (typeof value !== "object" || value === null) return true;
  return most > 0 && Object.values(value).every((part) => isFlat(part, most - 1));
}

/** A record without the fields that are null, which say the same as missing ones. Throws a RecordError if it is damaged. */
export function validRecord(record) {
  if (!isObject(record)) throw damaged("it does not have fields");
  const found = Object.fromEntries(Object.entries(record).filter(([, value]) => value !== null));
  for (const [name, value] of Object.entries(found)) {
    if (!isFlat(value, DEEPEST)) throw damaged(`its field ${short(name)} is nested too deeply`);
    if (!Object.hasOwn(FIELDS, name)) continue;
    const [kind, fits, read] = FIELDS[name];
    if (!fits(value)) throw damaged(`its ${name} is ${short(value)}, not ${kind}`);
    found[name] = read(value);
  }
  if (!("conditions" in found || "waypoints" in found || "prompt" in found)) {
    throw damaged("it does not say what the picture was painted from");
  }
  checkPath({ ...found, position: record.position ?? 0 }); // not rounded
  if (isGrid(found) && found.seeds.length > found.num_images) {
    throw damaged(`it has ${found.seeds.length} seeds for ${found.num_images} pictures`);
  }
  return found;
}

/** True for the record of several pictures in one, as `ccld sample` writes it. */
export const isGrid = (record) => "seeds" in record && "num_images" in record && !("waypoints" in record);

function checkPath({ waypoints, seeds, seed: only, position = 0 }) {
  if (!waypoints) return;
  if (!seeds && only === undefined) throw damaged("it does not have the seeds of its waypoints");
  const [length, numSeeds] = [waypoints.length, seeds?.length ?? 1];
  if (length !== numSeeds && length !== 1 && numSeeds !== 1) throw damaged(`it has ${numSeeds} seeds for ${length} waypoints`);
  const most = Math.max(length, numSeeds);
  if (position > most) throw damaged(`its position ${short(position)} lies beyond its ${most} waypoints`);
}
