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

const BUNDLED = "default";
const UNNAMED = ["", ".", "..", "pipeline", "lora"]; // folders in the folder that has the name

/** Says that a link or a picture was made with another model, if that can be told. */
export function compareModels(other, model, thing) {
  const differs = isOtherModel(other, model);
  show("notice", differs ? `${thing} was made with another model. This page paints the same settings with ${model.name}.` : "");
}

/**
 * True if a model is another one than the page's. Its source tells, without the folders, where it has no fingerprint, as in
 * `DemoModel.difference` of the package.
 */
export function isOtherModel({ fingerprint, source }, model) {
  if (fingerprint && model.fingerprint) return fingerprint !== model.fingerprint;
  const [theirs, ours] = [lastName(source ?? ""), lastName(model.source)];
  return Boolean(source && ours) && theirs !== ours && Boolean(theirs || ours === BUNDLED);
}

/** The name in a model's source, without folders and owners; empty if it has none. */
function lastName(source) {
  const name = source.split(/[/\\]/).filter((part) => !UNNAMED.includes(part)).at(-1) ?? "";
  return name === "default_model" ? BUNDLED : name;
}
