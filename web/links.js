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
 * What a link says, which may be incomplete or written by hand: the values of fields by their ids; `faults`, a sentence for each
 * part that is wrong; the fingerprint of its model. Null without settings.
 *
 * @param fragment What follows the # of the address.
 * @param limits The smallest and the largest number, by the ids of the fields that have them.
 * @param usual The values of fields, by their ids, where a part is missing or wrong.
 */
export function readLink(fragment, limits, usual) {
  const query = new URLSearchParams(fragment);
  const ids = Object.keys(NAMES).filter((id) => query.has(NAMES[id]));
  if (!ids.length) return null;
  const isWhole = Object.keys(NAMES).every((id) => ids.includes(id) || !(id in limits));
  const values = isWhole ? { prompt: "", negative: "" } : { ...usual }; // links leave empty texts out
  const faults = [];
  for (const id of ids) {
    const text = query.get(NAMES[id]);
    const value = !(id in limits) ? text : text.trim() ? Number(text) : NaN;
    try {
      requireWithin({ [id]: value }, limits);
      values[id] = value;
    } catch (error) {
      faults.push(error.message);
      values[id] = usual[id];
    }
  }
  return { values, faults, fingerprint: query.get("model") };
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
