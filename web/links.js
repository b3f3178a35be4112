// Links that paint a picture again: the settings behind the # of the page's address.

import { requireWithin } from "./record.js";

// The names of fields in links, by the ids of the fields.
const NAMES = {
  ...{ prompt: "prompt", negative: "negativePrompt", seed: "seed", pictures: "pictures", steps: "steps" },
  ...{ guidance: "guidance", variation: "variation", from: "from", to: "to" },
};

/** The address of a picture with its settings. */
export function linkOf(settings, model) {
  const values = { ...settings, pictures: 1, from: settings.interval[0], to: settings.interval[1] };
  const named = Object.values(NAMES).filter((name) => values[name] !== "");
  const query = new URLSearchParams(named.map((name) => [name, values[name]]));
  if (model.fingerprint) query.set("model", model.fingerprint);
  return `${location.href.split("#")[0]}#${query}`;
}

/**
 * The values of fields by their ids in the page's address, the fingerprint of the link's model, and `isPicture`, true if the
 * link has a picture's settings.
 *
 * @param limits The smallest and the largest number, by the ids of the fields that have them.
 * @throws RecordError If a value is not a number or is beyond the limits of its field.
 */
export function readLink(limits) {
  const query = new URLSearchParams(location.hash.slice(1));
  const isPicture = query.has("seed");
  const values = {};
  for (const [id, name] of Object.entries(NAMES)) {
    const text = query.get(name);
    if (text !== null) values[id] = id in limits ? (text.trim() ? Number(text) : NaN) : text;
    else if (isPicture && !(id in limits)) values[id] = ""; // links leave empty texts out
  }
  requireWithin(values, limits);
  return { values, fingerprint: query.get("model"), isPicture };
}

/** Copies a text. Resolves with false where neither way is allowed, as in some frames. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text); // browsers have it for this machine and with HTTPS alone
    return true;
  } catch {
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    return isCopied;
  }
}
