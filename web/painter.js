// Paints pictures from settings with the networks of a model.

import { normalise, squareCrop } from "./images.js";
import { PageError } from "./networks.js";
import { NoiseSource } from "./noise.js";
import { USUAL_STEPS, sample, samplingTimes, slerp } from "./sampler.js";
import { TextEncoding } from "./text.js";

const PREVIEW_SHARE = 0.5; // most time for previews, as a share of the time of the steps

export class Painter {
  #networks;
  #tokens;
  #embeddings = new Map();

  constructor(networks, tokenizer, entities) {
    this.#networks = networks;
    this.manifest = networks.manifest;
    this.#tokens = new TextEncoding(tokenizer, this.manifest.context_length, entities);
  }

  /** What a visitor leaves open is the model's own. */
  defaults() {
    const { defaults, scheduler, height, width } = this.manifest;
    const limit = defaults.max_guidance_scale ?? Infinity;
    return {
      steps: defaults.num_inference_steps ?? USUAL_STEPS[scheduler.algorithm_type],
      guidance: Math.min(defaults.guidance_scale ?? 3, limit),
      largestGuidance: Math.min(limit, 10),
      variation: "text_variation" in this.manifest.networks ? (defaults.variation ?? 0) : null,
      takesImages: "image_encoder" in this.manifest.networks,
      algorithm: scheduler.algorithm_type,
      timestepSchedule: scheduler.timestep_schedule,
      dtype: this.manifest.dtype,
      height,
      width,
    };
  }

  /** The words of the prompts that the model does not know. */
  unknownWords({ prompt, secondPrompt, negativePrompt }) {
    return this.#tokens.unknownWords([prompt, secondPrompt, negativePrompt].filter(Boolean));
  }

  async encodeText(text) {
    if (!this.#embeddings.has(text)) {
      const ids = BigInt64Array.from(this.#tokens.encode(text), BigInt);
      this.#embeddings.set(text, await this.#networks.run("text_encoder", { input_ids: [ids, [1, ids.length]] }));
    }
    return this.#embeddings.get(text);
  }

  /** Embeds an image {width, height, pixels: RGB bytes}. */
  async encodeImage(image) {
    const { size, image_mean: mean, image_std: std } = this.manifest.image_processor;
    const pixels = normalise(squareCrop(image, size), mean, std);
    return this.#networks.run("image_encoder", { pixel_values: [pixels, [1, 3, size, size]] });
  }

  /**
   * Conditions with their weights. A prompt and an image prompt share the guidance scale; a mix is one condition.
   * Texts vary by one draw: a mix lies between the pictures that its prompts and its seed paint.
   */
  async #conditions({ prompt, secondPrompt, fraction, negativePrompt, image, imageWeight, guidance, variation }, noise) {
    const dim = this.manifest.embedding_dim;
    const draw = variation && prompt ? noise.normal(dim).map((value) => variation * value) : null;
    const varied = async (text) => {
      const embeds = await this.encodeText(text);
      return draw ? this.#networks.run("text_variation", { embeds: [embeds, [1, dim]], noise: [draw, [1, dim]] }) : embeds;
    };
    const terms = [];
    if (secondPrompt) {
      terms.push({ condition: slerp(await varied(prompt), await varied(secondPrompt), fraction), weight: guidance });
    } else if (prompt) {
      terms.push({ condition: await varied(prompt), weight: guidance * (image ? 1 - imageWeight : 1) });
    }
    if (image) terms.push({ condition: await this.encodeImage(image), weight: guidance * (prompt ? imageWeight : 1) });
    if (negativePrompt) terms.push({ condition: await this.encodeText(negativePrompt), weight: 1 - guidance });
    return terms;
  }

  /**
   * Paints one picture.
   *
   * @param settings prompt, negativePrompt, image, imageWeight, seed, steps, guidance, interval, variation, and
   *   `previews`, false for none.
   * @param onStep Called as onStep(steps done, steps, RGBA pixels of a preview or null).
   * @param isStopped Asked before every step; true ends the painting.
   * @returns RGBA pixels, or null if it was stopped.
   */
  async paint(settings, onStep, isStopped) {
    const { manifest } = this;
    const [channels, height, width] = [
      manifest.latent_channels,
      manifest.height / manifest.downsampling,
      manifest.width / manifest.downsampling,
    ];
    const noise = new NoiseSource(settings.seed);
    const latents = noise.normal(channels * height * width);
    const terms = await this.#conditions(settings, noise);
    const times = samplingTimes(settings.steps, manifest.scheduler.timestep_schedule);
    const run = sample({
      network: (...inputs) => this.#predict([channels, height, width], ...inputs),
      latents,
      guidance: {
        conditions: terms.map((term) => term.condition),
        weights: terms.map((term) => term.weight),
        interval: settings.interval ?? [0, 1],
        takesScale: manifest.takes_guidance_scale,
        embeddingDim: manifest.embedding_dim,
      },
      algorithm: manifest.scheduler.algorithm_type,
      times,
      predictionType: manifest.scheduler.prediction_type,
    });
    const share = settings.previews === false ? 0 : PREVIEW_SHARE;
    return this.#follow(run, [channels, height, width], times.length, share, onStep, isStopped);
  }

  async #follow(run, shape, numSteps, share, onStep, isStopped) {
    let [result, done, painting, previewing] = [null, 0, 0, 0];
    for (let start = performance.now(); ; start = performance.now()) {
      await new Promise((resolve) => setTimeout(resolve)); // lets messages arrive
      if (isStopped()) return null;
      const step = await run.next();
      if (step.done) break;
      result = step.value.latents;
      done += 1;
      painting += performance.now() - start;
      let preview = null;
      if (done < numSteps && previewing < share * painting) {
        const before = performance.now();
        preview = await this.#decode(step.value.denoised, shape);
        previewing += performance.now() - before;
      }
      onStep(done, numSteps, preview);
    }
    return this.#decode(result, shape);
  }

  #predict(shape, latents, timestep, conditions, scales) {
    const count = conditions.length;
    const repeated = new Float32Array(count * latents.length);
    const joined = new Float32Array(count * this.manifest.embedding_dim);
    conditions.forEach((condition, i) => {
      repeated.set(latents, i * latents.length);
      joined.set(condition, i * condition.length);
    });
    const inputs = {
      sample: [repeated, [count, ...shape]],
      timestep: [new Float32Array(count).fill(timestep), [count]],
      condition: [joined, [count, this.manifest.embedding_dim]],
    };
    if (this.manifest.takes_guidance_scale) inputs.guidance_scale = [Float32Array.from(scales), [count]];
    return this.#networks.run("unet", inputs);
  }

  /** RGBA pixels of scaled latents. */
  async #decode(latents, shape) {
    const pixels = await this.#networks.run("decoder", { latents: [latents, [1, ...shape]] });
    const count = pixels.length / 3;
    const rgba = new Uint8ClampedArray(4 * count);
    for (let i = 0; i < count; i++) {
      for (let c = 0; c < 3; c++) {
        const value = pixels[c * count + i] / 2 + 0.5;
        if (!Number.isFinite(value)) throw new PageError("The model's pixels are not finite: try less guidance.");
        rgba[4 * i + c] = 255 * value; // clamped and rounded, halves to even
      }
      rgba[4 * i + 3] = 255;
    }
    return rgba;
  }
}
