// The noise of a seed, equal to that of a torch generator on a CPU: see src/diffusers_ccld/onnx/noise.py.

const GROUP = 16;

/** The Mersenne Twister mt19937. */
class Twister {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed;
    for (let i = 1; i < 624; i++) {
      const previous = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, previous) + i;
    }
    this.position = 624;
  }

  next() {
    if (this.position === 624) this.#advance();
    let y = this.state[this.position++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #advance() {
    const { state } = this;
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.position = 0;
  }
}

/** Draws what `torch.Generator().manual_seed(seed)` draws. The lowest 32 bits of a seed count. */
export class NoiseSource {
  #twister;

  constructor(seed) {
    this.#twister = new Twister(Number(BigInt.asUintN(32, BigInt(seed))));
  }

  /** Standard normal numbers, a Float32Array; sixteen or more. */
  normal(count) {
    if (count < GROUP) throw new RangeError(`${count} numbers were asked for; the noise is defined for ${GROUP} or more.`);
    const values = new Float32Array(count);
    const uniform = this.#uniform(count);
    for (let start = 0; start + GROUP <= count; start += GROUP) boxMuller(uniform.subarray(start), values, start);
    if (count % GROUP) boxMuller(this.#uniform(GROUP), values, count - GROUP); // the last sixteen are drawn anew
    return values;
  }

  #uniform(count) {
    return Float64Array.from({ length: count }, () => (this.#twister.next() & 0xffffff) / 2 ** 24);
  }
}

/** Turns sixteen uniform numbers into normal ones: the first eight give radii, the others angles. */
function boxMuller(uniform, values, start) {
  for (let i = 0; i < GROUP / 2; i++) {
    const radius = Math.fround(Math.sqrt(-2 * Math.log1p(-uniform[i])));
    const angle = Math.fround(Math.fround(2 * Math.PI) * uniform[i + GROUP / 2]);
    values[start + i] = radius * Math.cos(angle);
    values[start + i + GROUP / 2] = radius * Math.sin(angle);
  }
}
