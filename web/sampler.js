// Sampling of one picture: the times, the guidance formula and the loop. It follows src/diffusers_ccld/onnx/sampler.py and
// schedulers/solvers.py, where the papers are named; a test compares the two.

export const ALGORITHMS = ["dpmpp", "unipc", "ddim"];
export const USUAL_STEPS = { dpmpp: 10, unipc: 10, ddim: 50 };

const COSINE_CROSSOVER = 0.80074257;
const DDPM_CROSSOVER = 0.48536712;
const NEGLIGIBLE_WEIGHT = 1e-6;

const timeOfLogSnr = (logSnr) => (Math.atan2(Math.exp(-logSnr / 2), 1) / Math.PI) * 2;
const ddpmTime = (t) => timeOfLogSnr(-Math.log(Math.expm1(1e-4 + 10 * t ** 2)));

const SCHEDULES = {
  linear: (t) => t,
  ddpm: ddpmTime,
  log: (t) => timeOfLogSnr(10 - 20 * t),
  spliced: (t) => {
    const stretched = t * (1 + COSINE_CROSSOVER - DDPM_CROSSOVER);
    return stretched < COSINE_CROSSOVER ? stretched : ddpmTime(stretched + DDPM_CROSSOVER - COSINE_CROSSOVER);
  },
};

/** The descending times at which the steps of a run begin. */
export function samplingTimes(numSteps, schedule) {
  return Array.from({ length: numSteps }, (_, i) => SCHEDULES[schedule](1 - i / numSteps));
}

const alphaSigma = (t) => [Math.cos((t * Math.PI) / 2), Math.sin((t * Math.PI) / 2)];

/** a·x + b·y of two arrays. */
const mix = (a, x, b, y) => x.map((value, i) => a * value + b * y[i]);

/** ln(α/σ): ∞ at t = 0 and −∞ at t = 1. */
function logRatio(t) {
  const [alpha, sigma] = alphaSigma(t);
  if (Math.min(alpha, sigma) < 1e-12) return alpha > sigma ? Infinity : -Infinity;
  return Math.log(alpha / sigma);
}

/** A network's prediction for the sample x at time t: x₀ (`denoised`) and ε (`epsilon`). */
function splitPrediction(output, x, t, predictionType) {
  const [alpha, sigma] = alphaSigma(t);
  if (predictionType === "epsilon") return { t, x, denoised: mix(1 / alpha, x, -sigma / alpha, output), epsilon: output };
  return { t, x, denoised: mix(alpha, x, -sigma, output), epsilon: mix(sigma, x, alpha, output) };
}

/** x at time t2, if x₀ is `denoised` + `change` between the prediction's time and t2. */
function moved(prediction, t2, change = null) {
  const [alpha, sigma] = alphaSigma(prediction.t);
  const [alpha2, sigma2] = alphaSigma(t2);
  const x = mix(alpha2, prediction.denoised, sigma2, prediction.epsilon);
  return change === null ? x : mix(1, x, alpha2 - (sigma2 * alpha) / sigma, change);
}

/** Change of x₀ between two predictions over that of ln(α/σ), times a factor; null if the interval is infinite. */
function scaledSlope(factor, newest, previous) {
  const interval = logRatio(newest.t) - logRatio(previous.t);
  return Number.isFinite(interval) ? mix(factor / interval, newest.denoised, -factor / interval, previous.denoised) : null;
}

/** A step of DPM-Solver++(2M). */
function extrapolatedStep(newest, previous, t2) {
  const interval = logRatio(t2) - logRatio(newest.t);
  if (!previous || !Number.isFinite(interval)) return moved(newest, t2);
  return moved(newest, t2, scaledSlope(interval / 2, newest, previous));
}

/** UniPC's corrector with B₂: the prediction `end` with a better sample. */
function corrected(start, previous, end) {
  const h = logRatio(end.t) - logRatio(start.t);
  if (h === -Infinity) return end;
  let change = mix(1, end.denoised, -1, start.denoised);
  if (!previous) {
    change = change.map((value) => value / 2);
  } else {
    const ratio = (logRatio(previous.t) - logRatio(start.t)) / h;
    const decay = Math.expm1(-h);
    const sumOfWeights = -1 / h - 1 / decay;
    const past = (sumOfWeights + (2 * sumOfWeights) / h + 1 / decay) / (1 - ratio);
    const slope = scaledSlope(past * h, start, previous);
    change = slope ? mix(1, slope, sumOfWeights - past, change) : change.map((value) => (sumOfWeights - past) * value);
  }
  const x = moved(start, end.t, change);
  const [alpha, sigma] = alphaSigma(end.t);
  return { t: end.t, x, denoised: end.denoised, epsilon: mix(1 / sigma, x, -alpha / sigma, end.denoised) };
}

/** One DDIM step; `draw` gives the noise of a share `eta` of DDPM's. */
function ddimStep(newest, t2, eta, draw) {
  const [[alpha1, sigma1], [alpha2, sigma2]] = [alphaSigma(newest.t), alphaSigma(t2)];
  const noiseScale = ((eta * sigma2) / sigma1) * Math.sqrt(1 - alpha1 ** 2 / alpha2 ** 2);
  const x = mix(alpha2, newest.denoised, Math.sqrt(sigma2 ** 2 - noiseScale ** 2), newest.epsilon);
  return noiseScale ? mix(1, x, noiseScale, draw()) : x;
}

/** Weights at a time. Outside the interval negative ones are zero, and the sum is at most 1. */
function weightsAt(weights, interval, t) {
  if (interval[0] <= t && t <= interval[1]) return weights;
  const wanted = weights.map((weight) => Math.max(weight, 0));
  const sum = Math.max(wanted.reduce((a, b) => a + b, 0), 1);
  return wanted.map((weight) => weight / sum);
}

/**
 * The guided prediction v = (1 − Σ w_i)·v(zero condition) + Σ w_i·v(c_i), in one call of the network.
 * `network(latents, timestep, conditions, scales)` gets the same latents for each of a list of conditions.
 */
async function guidedPrediction(network, latents, t, guidance) {
  const timestep = Math.fround(1000 * t - 1);
  let weights = weightsAt(guidance.weights, guidance.interval, (timestep + 1) / 1000);
  let scales = weights.map(() => 1);
  const isUsed = (weight) => Math.abs(weight) > NEGLIGIBLE_WEIGHT;
  if (guidance.takesScale && weights.filter(isUsed).length === 1) {
    scales = weights.map((weight) => (weight > 1 ? weight : 1));
    weights = weights.map((weight) => (weight > 1 ? 1 : weight));
  }
  const zero = new Float32Array(guidance.embeddingDim);
  const terms = [...guidance.conditions.map((condition, i) => ({ condition, weight: weights[i], scale: scales[i] }))];
  terms.push({ condition: zero, weight: 1 - weights.reduce((a, b) => a + b, 0), scale: 1 });
  const active = terms.filter(({ weight }) => isUsed(weight));
  const output = await network(latents, timestep, active.map((term) => term.condition), active.map((term) => term.scale));
  const sum = new Float32Array(latents.length);
  active.forEach(({ weight }, k) => {
    for (let i = 0; i < sum.length; i++) sum[i] += weight * output[k * sum.length + i];
  });
  return sum;
}

/**
 * Samples from noise. Yields after each step the latents, and the denoised latents that its evaluation predicts.
 * `guidance` has `conditions`, `weights`, `interval`, `takesScale` and `embeddingDim`.
 */
export async function* sample({ network, latents, guidance, algorithm, times, predictionType, eta = 0, draw }) {
  let past = [];
  for (const [i, t1] of times.entries()) {
    const t2 = times[i + 1] ?? 0;
    let newest = splitPrediction(await guidedPrediction(network, latents, t1, guidance), latents, t1, predictionType);
    if (algorithm === "ddim") {
      latents = ddimStep(newest, t2, eta, draw);
    } else {
      const [start, previous] = past;
      if (algorithm === "unipc" && start) newest = corrected(start, previous, newest);
      past = [newest, ...past].slice(0, 2);
      latents = extrapolatedStep(newest, start, t2);
    }
    yield { latents, denoised: newest.denoised };
  }
}

/** The point at a fraction of the great circle between two unit vectors. */
export function slerp(a, b, fraction) {
  const cosine = Math.min(Math.max(a.reduce((sum, value, i) => sum + value * b[i], 0), -1), 1);
  const angle = Math.acos(cosine);
  if (angle < 1e-6) return mix(1 - fraction, a, fraction, b);
  return mix(Math.sin((1 - fraction) * angle) / Math.sin(angle), a, Math.sin(fraction * angle) / Math.sin(angle), b);
}
