// The thread that paints. Messages in: load, paint, stop. Messages out: progress, ready, words,
// step, picture, stopped, error.

import { Networks, PageError } from "./networks.js";
import { Painter } from "./painter.js";

const BASE = new URL("./", import.meta.url).href;

let painter = null;
let stopped = new Set();

function explain(error) {
  if (error instanceof PageError) return error.message;
  const message = String(error?.message ?? error);
  if (/memory|allocat|RangeError/i.test(message)) return "The browser ran out of memory: close other tabs, or load the page again.";
  return `Something went wrong: ${message.split("\n")[0].slice(0, 200)}`;
}

async function load() {
  const networks = await Networks.load(BASE, (bytes, total) => postMessage({ type: "progress", bytes, total }));
  const entities = await (await fetch(`${BASE}entities.json`)).json();
  painter = new Painter(networks, await networks.json(networks.manifest.tokenizer), entities);
  const { manifest, runsOnGpu, threads } = networks;
  postMessage({ type: "ready", defaults: painter.defaults(), version: manifest.version, dtype: manifest.dtype, runsOnGpu, threads });
}

async function paint({ job, settings }) {
  postMessage({ type: "words", job, unknown: painter.unknownWords(settings) });
  const onStep = (done, total, preview) => postMessage({ type: "step", job, done, total, preview });
  const pixels = await painter.paint(settings, onStep, () => stopped.has(job));
  postMessage(pixels ? { type: "picture", job, pixels } : { type: "stopped", job });
}

let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  if (data.type === "stop") {
    for (const job of data.jobs) stopped.add(job);
    return;
  }
  const task = data.type === "load" ? load : () => paint(data);
  queue = queue.then(task).catch((error) => postMessage({ type: "error", job: data.job, message: explain(error) }));
};
