// The model of the page: its name, its example prompts and its fingerprint, as web/build.py describes it in model.json.

import { similarWord } from "./text.js";

const element = (id) => document.getElementById(id);

function show(id, text) {
  element(id).textContent = text;
  element(id).hidden = !text;
}

/** Loads the description of the model. */
export async function loadModel() {
  const response = await fetch("model.json");
  if (!response.ok) throw new Error("model.json is missing on the server");
  return response.json();
}

/** Writes what the page says of its model. Fields keep what a visitor has written in the meantime. */
export function describeModel(model) {
  element("painter").textContent = model.painter;
  show("model", model.about);
  for (const [id, text] of [["prompt", model.prompt], ["first", model.mix[0]], ["second", model.mix[1]]]) {
    element(id).value ||= text;
  }
}

/** Names the words of prompts that the model does not know; an empty list hides the line. */
export function showUnknown(id, words, model) {
  const name = model.name[0].toUpperCase() + model.name.slice(1);
  const named = words.map((word) => {
    const similar = similarWord(word, model.words);
    return similar ? `${word} (did you mean ${similar}?)` : word;
  });
  show(id, words.length ? `${name} does not know: ${named.join(", ")}` : "");
}

/** Says that a link or a picture was made with another model; older ones do not name theirs. */
export function compareModels(fingerprint, model, thing) {
  const differs = Boolean(fingerprint && model.fingerprint && fingerprint !== model.fingerprint);
  show("notice", differs ? `${thing} was made with another model. This page paints the same settings with ${model.name}.` : "");
}
