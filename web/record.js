// The record of how a picture was made, and the fields of the form that it fills.

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

/** The tab and the values of fields, by their ids, that a record fills; null if its path is not one of two prompts. */
export function fieldsOf(record) {
  const [begin, end] = record.guidance_interval ?? [0, 1];
  const shared = { steps: record.steps, variation: record.variation, from: begin, to: end };
  const { waypoints, seeds = [] } = record;
  if (waypoints) {
    const [first, second] = waypoints;
    const isMix = waypoints.length === 2 && first[1] === second[1] && !waypoints.some((entry) => entry.length > 2);
    if (!isMix || new Set(seeds).size !== 1) return null;
    const own = { first: first[0], second: second[0], fraction: record.position, "mix-seed": seeds[0] };
    return { tab: "mix", values: { ...shared, ...own, guidance: first[1] } };
  }
  const texts = (record.conditions ?? []).filter(([source, weight]) => weight > 0 && !record.images?.includes(source));
  const own = {
    prompt: record.prompt ?? texts[0]?.[0] ?? "",
    negative: record.negative_prompt ?? "",
    seed: record.seed,
    guidance: record.guidance_scale ?? record.conditions?.[0]?.[1],
  };
  return { tab: "paint", values: { ...shared, ...own } };
}
