// The networks of an exported folder: downloads them with progress, checks them, and runs them with onnxruntime-web.

const FORMAT = 1;
const LARGEST_MODEL = 2e9; // bytes; WebAssembly addresses 4 GB, and a network needs about twice its weights

/** A problem that the page explains in one sentence. */
export class PageError extends Error {}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Reads a response in pieces; `onBytes` gets the length of each. */
async function readAll(response, onBytes) {
  const pieces = [];
  let length = 0;
  const reader = response.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    length += piece.value.length;
    onBytes(piece.value.length);
  }
  const bytes = new Uint8Array(length);
  let position = 0;
  for (const piece of pieces) {
    bytes.set(piece, position);
    position += piece.length;
  }
  return bytes;
}

async function download(url, onBytes = () => {}) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new PageError(`${url} could not be loaded: you are offline, or the server is.`);
  }
  if (!response.ok) throw new PageError(`${url} is missing on the server (status ${response.status}).`);
  return readAll(response, onBytes);
}

async function downloadJson(url) {
  const bytes = await download(url);
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new PageError(`${url} is damaged.`);
  }
}

/** onnxruntime-web with WebGPU where there is an adapter, and with WebAssembly otherwise. */
async function loadRuntime(base) {
  if (typeof WebAssembly !== "object") throw new PageError("This browser has no WebAssembly, which the page needs.");
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const providers = adapter ? ["webgpu", "wasm"] : ["wasm"];
  const ort = await import(`${base}runtime/ort.${adapter ? "webgpu" : "wasm"}.bundle.min.mjs`);
  ort.env.wasm.wasmPaths = `${base}runtime/`;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency ?? 1, 4) : 1;
  return { ort, providers, threads: ort.env.wasm.numThreads };
}

export class Networks {
  #ort;
  #providers;
  #base;
  #files = new Map();
  #sessions = new Map();

  /** Loads what every picture needs. `onProgress(bytes, total)` follows the download. */
  static async load(base, onProgress) {
    const networks = new Networks();
    networks.#base = base;
    const manifest = (networks.manifest = await downloadJson(`${base}model/onnx.json`));
    if (manifest.format !== FORMAT) {
      throw new PageError(`The model has format ${manifest.format}, and this page reads format ${FORMAT}: export it again.`);
    }
    const needed = ["text_encoder", "text_variation", "unet", "decoder"].filter((name) => name in manifest.networks);
    const files = new Map();
    for (const name of needed) {
      for (const file of [manifest.networks[name].graph, manifest.networks[name].weights]) files.set(file.path, file);
    }
    files.set(manifest.tokenizer.path, manifest.tokenizer);
    const total = [...files.values()].reduce((sum, file) => sum + file.size, 0);
    if (total > LARGEST_MODEL) {
      throw new PageError(`The model has ${(total / 1e9).toFixed(1)} GB, more than a browser can hold: run it from the shell.`);
    }
    let loaded = 0;
    const count = (bytes) => onProgress((loaded += bytes), total);
    onProgress(0, total);
    const [runtime] = await Promise.all([loadRuntime(base), ...Array.from(files.values(), (file) => networks.#file(file, count))]);
    networks.#ort = runtime.ort;
    networks.#providers = runtime.providers;
    networks.threads = runtime.threads;
    for (const name of needed) await networks.#session(name);
    return networks;
  }

  get runsOnGpu() {
    return this.#providers[0] === "webgpu";
  }

  async json(file) {
    return JSON.parse(new TextDecoder().decode(await this.#file(file)));
  }

  /** A file of the model, checked. It is kept until its network is loaded. */
  async #file(file, onBytes) {
    if (!this.#files.has(file.path)) {
      const bytes = await download(`${this.#base}model/${file.path}`, onBytes);
      const isComplete = bytes.length === file.size && (!crypto.subtle || (await sha256(bytes)) === file.sha256);
      if (!isComplete) throw new PageError(`model/${file.path} is damaged or does not belong to this model: load it again.`);
      this.#files.set(file.path, bytes);
    }
    return this.#files.get(file.path);
  }

  async #session(name) {
    if (!this.#sessions.has(name)) {
      const { graph, weights } = this.manifest.networks[name];
      const options = {
        executionProviders: this.#providers,
        externalData: [{ path: weights.path, data: await this.#file(weights) }],
      };
      this.#sessions.set(name, await this.#ort.InferenceSession.create(await this.#file(graph), options));
    }
    return this.#sessions.get(name);
  }

  /** Runs a network: `inputs` are [data, shape] by name; whole numbers are given as BigInt64Array. */
  async run(name, inputs) {
    const session = await this.#session(name);
    const type = (data) => (data instanceof BigInt64Array ? "int64" : "float32");
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([input, [data, shape]]) => [input, new this.#ort.Tensor(type(data), data, shape)]),
    );
    const outputs = await session.run(feeds);
    const output = outputs[session.outputNames[0]];
    const data = await output.getData();
    for (const tensor of [...Object.values(feeds), output]) tensor.dispose();
    return data;
  }
}
