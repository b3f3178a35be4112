// The page: its forms, pictures, links and files. Painting is done by worker.js.

import { compareModels, describeModel, loadModel, showUnknown } from "./about.js";
import { fileStem } from "./file-names.js";
import { copy, linkOf, readLink } from "./links.js";
import { readRecord, withRecord } from "./png.js";
import { MIX_STEPS, fieldsOf, recordOf } from "./record.js";
import { RecordError } from "./valid-record.js";

const element = (id) => document.getElementById(id);

let worker = null;
let model = null; // its description, of model.json
let defaults = null;
let version = null;
let nextJob = 0;
let usual = null; // the values of fields that links have, by their ids, at the beginning
let isAsked = false; // a picture is to be painted as soon as the model is there
let image = null; // the picture that is a prompt: {width, height, pixels}
const jobs = new Map(); // by number: functions that take the worker's messages

// Messages

function showMessage(text) {
  element("message").textContent = text;
  element("message").hidden = !text;
}

function receive({ data }) {
  if (data.type === "progress") showProgress(data.bytes, data.total);
  else if (data.type === "ready") begin(data);
  else if (data.type === "error" && data.job === undefined) {
    element("loading").hidden = true;
    showMessage(data.message);
  } else jobs.get(data.job)?.(data);
}

function showProgress(bytes, total) {
  const megabytes = (count) => (count / 1e6).toFixed(1);
  element("progress").value = bytes / total;
  element("progress-text").textContent =
    bytes < total ? `Loading the model: ${megabytes(bytes)} of ${megabytes(total)} MB` : "Preparing the model …";
}

/** Sends settings to the worker. Resolves with pixels, or with null if the job was stopped. */
function paint(settings, { onStep = () => {}, unknown }) {
  const job = nextJob++;
  const result = new Promise((resolve, reject) => {
    jobs.set(job, (data) => {
      if (data.type === "step") return onStep(data);
      if (data.type === "words") return showUnknown(unknown, data.unknown, model);
      jobs.delete(job);
      if (data.type === "error") reject(new Error(data.message));
      else resolve(data.pixels ?? null);
    });
  });
  worker.postMessage({ type: "paint", job, settings });
  return { job, result };
}

function stopAll() {
  painted = {};
  worker.postMessage({ type: "stop", jobs: [...jobs.keys()] });
}

// Pictures

function draw(canvas, pixels) {
  canvas.getContext("2d").putImageData(new ImageData(pixels, canvas.width, canvas.height), 0, 0);
}

async function downloadPicture(canvas, settings) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const png = withRecord(new Uint8Array(await blob.arrayBuffer()), recordOf(settings, { model, defaults, version }));
  const texts = [settings.prompt, settings.secondPrompt].filter(Boolean).join(" to ");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([png], { type: "image/png" }));
  link.download = `${fileStem(texts)}-${settings.seed}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function button(text, onClick) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", () => onClick(made));
  return made;
}

function anchor(text, address) {
  return Object.assign(document.createElement("a"), { textContent: text, href: address, target: "_blank" });
}

/** A figure for a picture, with its caption; the buttons appear when it is finished. */
function makeFigure(settings, caption) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [defaults.width, defaults.height];
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", caption);
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.style.width = "0";
  const text = document.createElement("figcaption");
  const words = document.createElement("p");
  words.textContent = caption;
  text.append(words);
  figure.append(canvas, bar, text);
  return { figure, canvas, bar, text, settings };
}

function finish({ canvas, bar, text, settings, figure }) {
  bar.remove();
  figure.dataset.state = "finished";
  const buttons = document.createElement("div");
  buttons.className = "chips";
  buttons.append(button("Download", () => downloadPicture(canvas, settings)));
  if (!settings.image && !settings.secondPrompt) {
    buttons.append(
      button("Copy link", async (pressed) => {
        const link = linkOf(settings, model);
        if (!(await copy(link))) return pressed.replaceWith(anchor("Link to this picture", link)); // with the browser's menu
        pressed.textContent = "Copied";
        setTimeout(() => (pressed.textContent = "Copy link"), 2000);
      }),
    );
  }
  if (defaults.takesImages) buttons.append(button("Use as prompt", () => useImage(imageOf(canvas))));
  text.append(buttons);
}

// Settings and links

function readSettings() {
  const value = (id) => element(id).value;
  return {
    prompt: value("prompt").trim(),
    negativePrompt: value("negative").trim(),
    seed: Number(value("seed")),
    pictures: Number(value("pictures")),
    steps: Number(value("steps")),
    guidance: Number(value("guidance")),
    variation: defaults.variation === null ? 0 : Number(value("variation")),
    interval: [Number(value("from")), Number(value("to"))],
    image,
    imageWeight: Number(value("image-weight")),
  };
}

function setField(input, value) {
  if (input.type === "number" || input.type === "range") {
    const number = Number(value);
    if (value === "" || !Number.isFinite(number)) return;
    value = String(Math.min(Math.max(number, Number(input.min)), Number(input.max)));
  }
  input.value = value;
  input.dispatchEvent(new Event("input"));
}

/** Fills fields by their ids; those without a value stay. */
function fill(values) {
  for (const [id, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const input = element(id);
    setField(input, value);
    if (input.type === "range" && Number(input.value) !== value) {
      input.step = "any"; // the browser had rounded the value
      setField(input, value);
    }
  }
}

/** Fills the form from the page's address, and paints, unless a part of it is wrong. */
function followLink() {
  const link = readLink(location.hash.slice(1), limitsOfFields(), usual);
  compareModels({ fingerprint: link?.fingerprint }, model, "This link");
  if (!link) return;
  fill(link.values);
  removeImage();
  selectTab("paint");
  if (!link.faults.length) return paintInstead(paintAll);
  showMessage(`The link cannot be used as it is. ${link.faults.join(" ")} The form has its other settings.`);
}

/** The values that the page begins with, by the ids of the fields that links have. */
function usualFields() {
  const fields = ["negative", "seed", "pictures", "from", "to"].map((id) => [id, element(id).defaultValue]);
  return { prompt: model.prompt, ...Object.fromEntries(fields) };
}

/** The smallest and the largest number of each field, by its id. */
function limitsOfFields() {
  const fields = document.querySelectorAll("input[type=number], input[type=range]");
  return Object.fromEntries([...fields].map(({ id, min, max }) => [id, [Number(min), Number(max)]]));
}

/** Fills the form from the record of a picture of ours, and shows its tab. Throws a RecordError if the form cannot say it. */
function useRecord(found) {
  const { tab, values, notices } = fieldsOf(found, { defaults, limits: limitsOfFields() });
  fill(values);
  if (!found.images?.length) removeImage();
  compareModels({ fingerprint: found.fingerprint, source: found.model }, model, "This picture");
  showMessage(notices.join(" "));
  selectTab(tab);
}

// Image prompts

function imageOf(source) {
  const canvas = new OffscreenCanvas(source.width, source.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // under transparent parts
  context.fillRect(0, 0, source.width, source.height);
  context.drawImage(source, 0, 0);
  const rgba = context.getImageData(0, 0, source.width, source.height).data;
  const pixels = new Uint8ClampedArray((rgba.length / 4) * 3);
  for (let i = 0; i < rgba.length / 4; i++) pixels.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  return { width: source.width, height: source.height, pixels, canvas };
}

function useImage(found) {
  const { canvas, ...values } = found;
  image = values;
  const thumbnail = element("thumbnail").getContext("2d");
  thumbnail.clearRect(0, 0, 64, 64);
  const scale = 64 / Math.max(canvas.width, canvas.height);
  const [width, height] = [canvas.width * scale, canvas.height * scale];
  thumbnail.drawImage(canvas, (64 - width) / 2, (64 - height) / 2, width, height);
  element("dropped").hidden = false;
}

function removeImage() {
  image = null;
  element("dropped").hidden = true;
  element("image").value = "";
}

async function openFile(file) {
  if (!file) return;
  if (!defaults) return showMessage("The model is still loading: give the picture again when the page is ready.");
  showMessage("");
  try {
    const found = file.type === "image/png" ? readRecord(new Uint8Array(await file.arrayBuffer())) : null;
    if (found) {
      element("image").value = ""; // it is not a prompt
      useRecord(found);
      return;
    }
    const bitmap = await createImageBitmap(file);
    useImage(imageOf(bitmap));
    bitmap.close();
  } catch (error) {
    const isRecord = error instanceof RecordError;
    showMessage(isRecord ? `The given picture's settings cannot be used. ${error.message}` : `${file.name} is not a picture that this browser can open.`);
  }
}

// Painting

let painted = {}; // the settings, without the image prompt, and the image prompt that were painted last

const keyOf = (settings) => JSON.stringify({ ...settings, image: null });

/** Takes the next seeds if nothing has changed: the same settings would paint the same pictures. */
function takeNextSeeds() {
  const settings = readSettings();
  if (keyOf(settings) !== painted.key || image !== painted.image) return;
  const next = settings.seed + settings.pictures;
  setField(element("seed"), next <= Number(element("seed").max) ? next : 0);
}

let painting = Promise.resolve(); // ends with the pictures that are being painted

function paintAll() {
  painting = paintPictures();
}

/** Ends what is being painted, and then calls a function, unless something else is being painted by then. */
async function paintInstead(begin) {
  if (!element("stop").hidden) stopAll();
  await painting;
  if (element("stop").hidden) begin();
}

const submit = () => element("paint-form").requestSubmit();

function paintExample(prompt) {
  setField(element("prompt"), prompt);
  isAsked = !defaults; // `begin` paints it then
  if (!isAsked) paintInstead(submit);
}

async function paintPictures() {
  showMessage("");
  const settings = readSettings();
  if (settings.interval[0] > settings.interval[1]) return showMessage("Guidance begins after it ends: swap the two times.");
  painted = { key: keyOf(settings), image };
  [element("go").hidden, element("stop").hidden] = [true, false];
  const figures = Array.from({ length: settings.pictures }, (_, i) => {
    const own = { ...settings, seed: settings.seed + i };
    return makeFigure(own, `${own.prompt || (image ? "a picture as the prompt" : "no prompt")} · seed ${own.seed}`);
  });
  element("gallery").prepend(...figures.map(({ figure }) => figure));
  const results = figures.map(async (entry) => {
    const onStep = ({ done, total, preview }) => {
      entry.bar.style.width = `${(100 * done) / total}%`;
      if (preview) draw(entry.canvas, preview);
    };
    try {
      const pixels = await paint(entry.settings, { onStep, unknown: "unknown" }).result;
      if (pixels === null) return entry.figure.remove();
      draw(entry.canvas, pixels);
      finish(entry);
    } catch (error) {
      entry.figure.remove();
      showMessage(error.message);
    }
  });
  await Promise.all(results);
  [element("go").hidden, element("stop").hidden] = [false, true];
}

// Mixing

const mix = { key: null, frames: new Map(), painting: null, entry: null };

/** The position that is nearest to the slider among those without a picture. */
function nextPosition() {
  const wanted = Math.round(element("fraction").value * MIX_STEPS);
  const missing = Array.from({ length: MIX_STEPS + 1 }, (_, i) => i).filter((i) => !mix.frames.has(i));
  return missing.sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted))[0];
}

function showMix() {
  const wanted = Math.round(element("fraction").value * MIX_STEPS);
  const nearest = [...mix.frames.keys()].sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted))[0];
  if (nearest !== undefined) draw(mix.entry.canvas, mix.frames.get(nearest));
  const count = mix.frames.size;
  element("mix-state").textContent = count > MIX_STEPS ? "All positions are painted." : `${count} of ${MIX_STEPS + 1} positions painted`;
  mix.entry.settings.fraction = (nearest ?? wanted) / MIX_STEPS;
}

function mixSettings() {
  return {
    ...readSettings(),
    prompt: element("first").value.trim(),
    secondPrompt: element("second").value.trim(),
    negativePrompt: "",
    image: null,
    seed: Number(element("mix-seed").value),
  };
}

/** A sentence of what is wrong with the form of a mix; empty if nothing is. */
function faultOfMix({ prompt, secondPrompt }) {
  if (!prompt || !secondPrompt) return "Write two prompts, to mix them.";
  const { validity, min, max } = element("mix-seed");
  return validity.valid ? "" : `The seed must be a whole number from ${min} to ${max}.`;
}

/** Paints all positions, those near the slider first, until the prompts change or the tab is left. */
async function paintMix() {
  const settings = mixSettings();
  const fault = faultOfMix(settings);
  if (fault) {
    mix.key = null; // ends what is being painted
    element("mix-state").textContent = fault;
    return;
  }
  const key = JSON.stringify(settings);
  if (mix.key !== key) {
    Object.assign(mix, { key, frames: new Map(), entry: makeFigure({ ...settings, fraction: 0.5 }, "A mix of two prompts") });
    mix.entry.figure.dataset.state = "mixing";
    element("mix-picture").replaceChildren(mix.entry.figure);
    finish(mix.entry);
  }
  if (mix.painting === key) return;
  mix.painting = key;
  try {
    while (mix.key === key && !element("mix").hidden) {
      showMix();
      const position = nextPosition();
      if (position === undefined) break;
      const pixels = await paint({ ...settings, fraction: position / MIX_STEPS, previews: false }, { unknown: "mix-unknown" }).result;
      if (pixels === null || mix.key !== key) break;
      mix.frames.set(position, pixels);
    }
  } catch (error) {
    showMessage(error.message);
  }
  mix.painting = null;
  if (mix.key === key && !element("mix").hidden) showMix();
}

// Beginning

function showOutputs() {
  for (const output of document.querySelectorAll("output")) {
    const input = element(output.htmlFor[0]);
    const show = () => (output.textContent = Number(input.value).toFixed(2));
    input.addEventListener("input", show);
    show();
  }
}

function selectTab(name) {
  for (const other of ["paint", "mix"]) {
    const tab = element(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    element(other).hidden = other !== name;
  }
  if (name === "mix" && defaults) paintMix();
}

function begin(data) {
  ({ defaults, version } = data);
  element("loading").hidden = true;
  element("guidance").max = defaults.largestGuidance;
  for (const input of document.querySelectorAll("[data-variation]")) input.hidden = defaults.variation === null;
  element("drop").hidden = !defaults.takesImages;
  const initial = { steps: defaults.steps, guidance: defaults.guidance, variation: defaults.variation ?? 0 };
  for (const [id, value] of Object.entries(initial)) setField(element(id), value);
  usual = { ...usual, ...initial };
  const threads = data.threads > 1 ? ` with ${data.threads} threads` : "";
  element("about").textContent = `Painted by ${data.runsOnGpu ? "the graphics processor (WebGPU)" : `WebAssembly${threads}`}, diffusers-ccld ${version}.`;
  element("go").disabled = false;
  element("fraction").disabled = false;
  document.body.dataset.state = "ready";
  if (isAsked) submit();
  else followLink();
  if (!element("mix").hidden) paintMix();
}

function listen() {
  element("paint-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!defaults || !element("stop").hidden) return;
    takeNextSeeds();
    compareModels({}, model);
    paintAll();
  });
  element("paint-form").addEventListener("invalid", () => (document.querySelector("details").open = true), true); // shows the field
  element("stop").addEventListener("click", stopAll);
  element("random-seed").addEventListener("click", () => {
    setField(element("seed"), crypto.getRandomValues(new Uint32Array(1))[0]);
  });
  for (const prompt of model.examples) {
    element("examples").append(button(prompt, () => paintExample(prompt)));
  }
  element("image").addEventListener("change", ({ target }) => openFile(target.files[0]));
  element("remove-image").addEventListener("click", removeImage);
  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      element("drop").classList.toggle("over", type === "dragover");
      if (type === "drop" && defaults?.takesImages) openFile(event.dataTransfer.files[0]);
    });
  }
  for (const name of ["paint", "mix"]) {
    element(`tab-${name}`).addEventListener("click", () => selectTab(name));
    element(`tab-${name}`).addEventListener("keydown", ({ key }) => {
      if (key !== "ArrowLeft" && key !== "ArrowRight") return;
      const other = name === "paint" ? "mix" : "paint";
      selectTab(other);
      element(`tab-${other}`).focus();
    });
  }
  element("mix-form").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["first", "second", "mix-seed"]) element(id).addEventListener("change", () => defaults && paintMix());
  element("fraction").addEventListener("input", () => mix.entry && showMix());
  window.addEventListener("hashchange", () => defaults && followLink());
}

/** Waits until the service worker keeps what is loaded, so that the page works without a network afterwards. */
async function keepForLater() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("service-worker.js");
    await navigator.serviceWorker.ready;
    if (navigator.serviceWorker.controller) return;
    await Promise.race([
      new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true })),
      new Promise((resolve) => setTimeout(resolve, 2000)),
    ]);
  } catch {
    // Browsers refuse it in private windows and without HTTPS. The page then only works with a network.
  }
}

function fail(reason) {
  element("loading").hidden = true;
  showMessage(`The page could not start: ${reason}.`);
}

showOutputs();
try {
  model = await loadModel();
} catch (error) {
  fail(error.message);
  throw error;
}
describeModel(model);
usual = usualFields();
listen();
await keepForLater();
worker = new Worker("worker.js", { type: "module" });
worker.addEventListener("message", receive);
worker.addEventListener("error", (event) => fail(event.message ?? "a file is missing"));
worker.postMessage({ type: "load" });
