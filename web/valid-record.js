// The check of a record in a picture, which may come from anywhere: src/diffusers_ccld/inference/record_checks.py in
// JavaScript; a test compares the two.

const TASKS = ["paint", "image_to_image", "edit", "inpaint", "between"];
const BEYOND_SEEDS = 2 ** 63;
const DEEPEST = 10; // nesting of a field that this page does not know
const LONGEST = 40; // characters of a value in a sentence

/** A picture's record that is damaged, or says what this page cannot do; its message is for the visitor. */
export class RecordError extends Error {}

const isText = (value) => typeof value === "string" && !value.includes("\0") && (value.isWellFormed?.() ?? true);
const isNumber = (value, lowest = -Infinity, highest = Infinity) =>
  typeof value === "number" && Math.abs(value) <= 1e300 && value >= lowest && value <= highest;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isList = (value, fits, shortest = 0, longest = Infinity) =>
  Array.isArray(value) && value.length >= shortest && value.length <= longest && value.every(fits);

/** A text with its weight, and the hash of the file in a list of three. */
const isSource = (value, longest) =>
  isList(value, () => true, 2, longest) && isText(value[0]) && isNumber(value[1]) && value.slice(2).every(isText);

const text = ["a text", isText];
const flag = ["true or false", (value) => typeof value === "boolean"];
const number = (lowest, highest) => {
  const bounds = lowest === undefined ? "" : ` from ${lowest}${highest === undefined ? "" : ` to ${highest}`}`;
  return [`a finite number${bounds}`, (value) => isNumber(value, lowest, highest)];
};
const whole = (lowest) => [
  `a whole number from ${lowest}`,
  (value) => Number.isInteger(value) && value >= lowest && value < BEYOND_SEEDS,
];
const [share, count, seed] = [number(0, 1), whole(1), whole(0)];
const texts = ["a list of texts", (value) => isList(value, isText)];
const size = ["a width and a height", (value) => isList(value, count[1], 2, 2)];

const FIELDS = {
  task: [`one of ${TASKS.join(", ")}`, (value) => TASKS.includes(value)],
  conditions: ["a list of pairs of a text and its weight", (value) => isList(value, (entry) => isSource(entry, 2))],
  prompt: text,
  waypoints: ["a list of pairs of a text and its weight", (value) => isList(value, (entry) => isSource(entry, 3), 1)],
  seeds: ["a list of whole numbers from 0", (value) => isList(value, seed[1], 1)],
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

const damaged = (what) => new RecordError(`The record of how the picture was painted is damaged: ${what}.`);

function short(value) {
  const written = JSON.stringify(value) ?? String(value);
  return written.length <= LONGEST ? written : `${written.slice(0, LONGEST)}…`;
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
    const [kind, fits] = FIELDS[name];
    if (!fits(value)) throw damaged(`its ${name} is ${short(value)}, not ${kind}`);
  }
  if (!("conditions" in found || "waypoints" in found || "prompt" in found)) {
    throw damaged("it does not say what the picture was painted from");
  }
  checkPath(found);
  return found;
}

function checkPath({ waypoints, seeds, seed: only, position = 0 }) {
  if (!waypoints) return;
  if (!seeds && only === undefined) throw damaged("it does not have the seeds of its waypoints");
  const [length, numSeeds] = [waypoints.length, seeds?.length ?? 1];
  if (length !== numSeeds && length !== 1 && numSeeds !== 1) throw damaged(`it has ${numSeeds} seeds for ${length} waypoints`);
  const most = Math.max(length, numSeeds);
  if (position > most) throw damaged(`its position ${position} lies beyond its ${most} waypoints`);
}
