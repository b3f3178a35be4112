// The square of an image prompt, as src/diffusers_ccld/models/square_crop.py makes it with Pillow; a test compares the two.

const PRECISION = 2 ** 22; // Pillow's filters are whole multiples of its inverse
const LONGEST = 32;

function lanczos(x) {
  const sinc = (y) => (y === 0 ? 1 : Math.sin(y * Math.PI) / (y * Math.PI));
  return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

/** For each pixel of the output, its first pixel of the input and the weights from there on. */
function filters(from, to) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - 3 * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(center + 3 * stretch + 0.5), from);
    const weights = Array.from({ length: end - first }, (_, x) => lanczos((x + first - center + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.trunc((w / sum) * PRECISION + (w < 0 ? -0.5 : 0.5))) };
  });
}

/** Resizes rows of RGB pixels; `lines` rows of `from` pixels, at the given strides. */
function resizeLines(pixels, lines, from, to, lineStride, pixelStride, outLineStride, outPixelStride) {
  const resized = new Uint8ClampedArray(lines * to * 3);
  filters(from, to).forEach(({ first, weights }, i) => {
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = PRECISION / 2;
        for (let x = 0; x < weights.length; x++) {
          sum += weights[x] * pixels[line * lineStride + (first + x) * pixelStride + channel];
        }
        resized[line * outLineStride + i * outPixelStride + channel] = Math.floor(sum / PRECISION);
      }
    }
  });
  return resized;
}

function resize({ width, height, pixels }, toWidth, toHeight) {
  if (toWidth !== width) pixels = resizeLines(pixels, height, width, toWidth, 3 * width, 3, 3 * toWidth, 3);
  if (toHeight !== height) pixels = resizeLines(pixels, toWidth, height, toHeight, 3, 3 * toWidth, 3, 3 * toWidth);
  return { width: toWidth, height: toHeight, pixels };
}

/** A part of an image; outside of it pixels are black. */
function crop({ width, height, pixels }, left, top, toWidth, toHeight) {
  const part = new Uint8ClampedArray(3 * toWidth * toHeight);
  for (let y = Math.max(0, -top); y < Math.min(toHeight, height - top); y++) {
    for (let x = Math.max(0, -left); x < Math.min(toWidth, width - left); x++) {
      for (let c = 0; c < 3; c++) part[3 * (y * toWidth + x) + c] = pixels[3 * ((y + top) * width + x + left) + c];
    }
  }
  return { width: toWidth, height: toHeight, pixels: part };
}

const roundHalfToEven = (x) => (x % 1 === 0.5 || x % 1 === -0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** The middle square of an image {width, height, pixels: RGB bytes}, resized with Lanczos. */
export function squareCrop(image, size) {
  const [longest, shortest] = [Math.max(image.width, image.height), Math.min(image.width, image.height)];
  if (longest > LONGEST * shortest) {
    const [width, height] = [image.width, image.height].map((side) => Math.min(side, LONGEST * shortest));
    image = crop(image, (image.width - width) >> 1, (image.height - height) >> 1, width, height);
  }
  const factor = Math.max(size / image.width, size / image.height);
  const [width, height] = [Math.trunc(factor * image.width), Math.trunc(factor * image.height)];
  const resized = resize(image, width, height);
  const offset = (side) => (side < size ? -Math.trunc((size - side) / 2) : roundHalfToEven((side - size) / 2));
  return crop(resized, offset(width), offset(height), size, size);
}

/** Normalised pixels (3, size, size) of a square. */
export function normalise({ width, height, pixels }, mean, std) {
  const count = width * height;
  return Float32Array.from({ length: 3 * count }, (_, i) => {
    const channel = Math.floor(i / count);
    return (pixels[3 * (i % count) + channel] / 255 - mean[channel]) / std[channel];
  });
}
