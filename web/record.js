// The record of how a picture was made, and the fields of the form that it fills.

import { RecordError, isGrid, validRecord } from "./valid-record.js";

export const MIX_STEPS = 20; // positions of the slider of a mix, less one
const MODELS_OWN = "the model's own"; // algorithm, in pictures of `ccld compare`
const UPLOADED = "IMAGE"; // stands for a picture that was a prompt, which a record does not have

/**
 * The record of a picture, with the fields of `Provenance` in the package.
 *
 * @param settings Those that it was painted with; a mix of two prompts has `secondPrompt` and `fraction`.
 * @param page Values of the page: `model`, its description; `defaults`, those of the painter; `version`.
 */
export function recordOf(settings, { model, defaults, version }) {
  const { guidance, negativePrompt, interval } = settings;
  return {
    ...(settings.secondPrompt ? waypointsOf(settings) : conditionsOf(settings)),
    negative_prompt: negativePrompt || null,
    guidance_scale: guidance,
    variation: settings.variation,
    model: model.source,
    ...(model.fingerprint ? { fingerprint: model.fingerprint } : {}),
    steps: settings.steps,
    guidance_interval: interval,
    algorithm: defaults.algorithm,
    timestep_schedule: defaults.timestepSchedule,
    dtype: defaults.dtype,
    runtime: "web",
    version,
    seed: settings.seed,
    size: [defaults.width, defaults.height],
  };
}

function waypointsOf({ prompt, secondPrompt, guidance, seed, fraction }) {
  const waypoints = [prompt, secondPrompt].map((text) => [text, guidance]);
  return { task: "between", waypoints, seeds: [seed], position: fraction };
}

function conditionsOf({ prompt, image, imageWeight, guidance }) {
  const share = image && prompt ? imageWeight : Number(Boolean(image));
  const conditions = prompt ? [[prompt, guidance * (1 - share)]] : [];
  if (!image) return { task: "paint", conditions, prompt };
  return { task: "paint", conditions: [...conditions, [UPLOADED, guidance * share]], images: [UPLOADED] };
}

/**
 * The tab, the values of fields by their ids that a record fills, and notices of what they lack.
 *
 * @param page What this page paints with: `defaults`, those of the painter, and `limits`, the smallest and the largest number
 *   of fields by their ids.
 * @throws RecordError If the record is damaged, or says what this page cannot do.
 */
export function fieldsOf(record, { defaults, limits }) {
  record = validRecord(record);
  refuseOthers(record, defaults);
  const [from, to] = record.guidance_interval ?? [0, 1];
  const shared = { steps: record.steps, variation: record.variation, from, to };
  const { tab, notices, ...own } = record.waypoints ? mixOf(record) : paintingOf(record, defaults, limits);
  const values = { ...shared, ...own.values };
  requireWithin(values, limits);
  return { tab, values, notices };
}

const NAMES = {
  ...{ steps: "steps", variation: "variation", from: "beginning of the guidance", to: "end of the guidance" },
  ...{ guidance: "guidance", seed: "seed", "mix-seed": "seed", "image-weight": "share of the image prompt" },
  ...{ fraction: "position", pictures: "number of pictures" },
};
const WHOLE = ["steps", "seed", "mix-seed", "pictures"];

/**
 * Throws a RecordError if a number is beyond the limits of its field.
 *
 * @param values Numbers and texts by the ids of their fields.
 * @param limits The smallest and the largest number, by the ids of the fields that have them.
 */
export function requireWithin(values, limits) {
  for (const [id, [lowest, highest]] of Object.entries(limits)) {
    const [value, isWhole] = [values[id], WHOLE.includes(id)];
    const fits = value >= lowest && value <= highest && (!isWhole || Number.isInteger(Number(value)));
    if (value === undefined || fits) continue;
    const given = Math.abs(Number(value)) <= Number.MAX_SAFE_INTEGER ? `, not ${value}` : "";
    const kind = isWhole ? "a whole number" : "a number";
    throw new RecordError(`The ${NAMES[id]} must be ${kind} from ${lowest} to ${highest}${given}.`);
  }
}

const cannot = (what) => new RecordError(`The picture ${what}.`);

/** Throws a RecordError for a record of something that this page does not have. */
function refuseOthers(record, defaults) {
  const { embeddings = [], task = "paint", algorithm = defaults.algorithm } = record;
  if (embeddings.length) throw cannot(`was painted from ${embeddings.join(", ")}, an embedding file, which cannot be used here`);
  const changed = { image_to_image: "painted over another one", edit: "edited from another one", inpaint: "painted in part" };
  if (task in changed) throw cannot(`was ${changed[task]}, which this page does not do`);
  for (const [field, usual, name] of [
    ["cloob_guidance", 0, "guidance by CLOOB alone"],
    ["parallel_guidance", 1, "a share of the parallel guidance"],
    ["eta", 0, "fresh noise in each step"],
    ["timestep_schedule", defaults.timestepSchedule, `the timestep schedule ${record.timestep_schedule}`],
  ]) {
    if ((record[field] ?? usual) !== usual) throw cannot(`was painted with ${name}, which this page does not have`);
  }
  if (algorithm !== defaults.algorithm && algorithm !== MODELS_OWN) {
    throw cannot(`was painted with the algorithm ${algorithm}, which this page does not have`);
  }
  const [width, height] = record.size ?? [defaults.width, defaults.height];
  if (width !== defaults.width || height !== defaults.height) {
    throw cannot(`has ${width} × ${height} pixels; this page paints ${defaults.width} × ${defaults.height}`);
  }
  if (record.variation && defaults.variation === null) throw cannot("was painted with variation, which this model does not have");
}

function mixOf({ waypoints, seeds, seed, position = 0.5, loop, negative_prompt: negative }) {
  const [[first, weight], [second, otherWeight] = []] = waypoints;
  const isMix = waypoints.length === 2 && weight === otherWeight && !waypoints.some((entry) => entry.length > 2);
  const own = new Set(seeds ?? [seed]);
  if (!isMix || own.size !== 1 || loop || position > 1) {
    throw cannot("lies on a path that this page does not paint; it takes two prompts of one weight and one seed");
  }
  if (negative) throw cannot("was steered away from a prompt, which mixes of this page are not");
  const fraction = Math.round(position * MIX_STEPS) / MIX_STEPS;
  const isNear = Math.abs(fraction - position) > 1e-9;
  const notices = isNear ? [`The picture is at ${Number(position.toFixed(4))}; the nearest picture of this page is at ${fraction}.`] : [];
  return { tab: "mix", values: { first, second, fraction, "mix-seed": [...own][0], guidance: weight }, notices };
}

function paintingOf(record, defaults, limits) {
  const { images = [], negative_prompt: negative = "", seed } = record;
  const conditions = record.conditions ?? sharesOf(record);
  const texts = conditions.filter(([source]) => !images.includes(source));
  const pictures = conditions.filter(([source]) => images.includes(source));
  if (texts.length > 1) throw cannot(`was painted from ${texts.length} prompts; this page takes one`);
  if (pictures.length > 1) throw cannot(`had ${pictures.length} image prompts; this page takes one`);
  if (conditions.some(([, weight]) => weight < 0)) throw cannot("had a prompt of negative weight, which this page does not take");
  if (pictures.length && !defaults.takesImages) throw cannot("had an image prompt, which this model does not take");
  const guidance = conditions.length ? conditions.reduce((sum, [, weight]) => sum + weight, 0) : undefined;
  const isShared = texts.length && pictures.length && guidance;
  const notices = pictures.length ? ["The picture had an image prompt, which its file does not hold: give it, too."] : [];
  const values = { prompt: texts[0]?.[0] ?? "", negative, seed, pictures: 1, guidance: Number.isNaN(guidance) ? undefined : guidance };
  if (isShared) values["image-weight"] = pictures[0][1] / guidance;
  if (isGrid(record)) {
    const [count, shown, most] = [record.num_images, record.seeds.length, limits.pictures[1]];
    values.pictures = count < most ? count : most;
    if (shown < count || values.pictures < count) notices.push(noticeOfGrid(count, shown, values.pictures));
  }
  return { tab: "paint", values, notices };
}

/** Says that a grid has other pictures than the page paints: those that `ccld sample --best` chose, or more. */
function noticeOfGrid(count, shown, painted) {
  const chosen = shown < count ? `${shown} of ${count} pictures` : `${count} pictures`;
  return `The file shows ${chosen}; this page paints ${painted < count ? "the first" : "all"} ${painted}.`;
}

/** The conditions of a picture of the demo, whose prompt and image prompt share the guidance scale. */
function sharesOf({ prompt, images = [], guidance_scale: scale = NaN, image_prompt_weight: weight = 0.5 }) {
  const share = images.length ? (prompt ? weight : 1) : 0;
  const texts = prompt ? [[prompt, scale * (1 - share)]] : [];
  return [...texts, ...images.map((image) => [image, scale * share])];
}
