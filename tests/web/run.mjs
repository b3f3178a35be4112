// Runs functions of the page in node: reads {task, …} from the standard input, writes the result as JSON.

import { readFileSync } from "node:fs";

import { isOtherModel } from "../../web/about.js";
import { fileStem } from "../../web/file-names.js";
import { normalise, squareCrop } from "../../web/images.js";
import { readLink } from "../../web/links.js";
import { NoiseSource } from "../../web/noise.js";
import { readRecord, withRecord } from "../../web/png.js";
import { fieldsOf, recordOf } from "../../web/record.js";
import { RecordError, parseJson, validRecord } from "../../web/valid-record.js";
import { sample, samplingTimes, slerp } from "../../web/sampler.js";
import { TextEncoding, cleanText, similarWord, unknownWords } from "../../web/text.js";

const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));

const TASKS = {
  text({ tokenizer, contextLength, entities, texts }) {
    const encoding = new TextEncoding(JSON.parse(readFileSync(tokenizer)), contextLength, entities);
    return texts.map((text) => ({ clean: cleanText(text, entities), ids: encoding.encode(text) }));
  },

  unknown({ tokenizer, texts }) {
    const { vocab } = JSON.parse(readFileSync(tokenizer)).model;
    return texts.map((text) => unknownWords(text, vocab));
  },

  stems: ({ texts }) => texts.map(fileStem),

  similar: ({ words, known }) => words.map((word) => similarWord(word, known)),

  noise({ seed, counts }) {
    const source = new NoiseSource(seed);
    return counts.map((count) => Array.from(source.normal(count)));
  },

  times: ({ numSteps, schedule }) => samplingTimes(numSteps, schedule),

  // A network that mixes its inputs, the same as in the test.
  async sample({ latents, guidance, algorithm, times, predictionType, eta, noise }) {
    const network = async (x, timestep, conditions, scales) =>
      Float32Array.from(
        conditions.flatMap((condition, k) =>
          Array.from(x, (value, i) => Math.tanh(value + condition[i % condition.length]) * scales[k] + timestep / 2000),
        ),
      );
    const draws = noise.map((values) => Float32Array.from(values));
    guidance.conditions = guidance.conditions.map((condition) => Float32Array.from(condition));
    const run = { network, latents: Float32Array.from(latents), guidance, algorithm, times, predictionType, eta };
    let last;
    for await (last of sample({ ...run, draw: () => draws.shift() }));
    return Array.from(last.latents);
  },

  crop({ width, height, pixels, size }) {
    const square = squareCrop({ width, height, pixels: bytes(pixels) }, size);
    return { pixels: Array.from(square.pixels), normalised: Array.from(normalise(square, [0.4, 0.5, 0.6], [0.2, 0.3, 0.1])) };
  },

  slerp: ({ a, b, fraction }) => slerp(a, b, fraction),

  others: ({ others, model }) => others.map((other) => isOtherModel(other, model)),

  links: ({ fragments, limits, usual }) => fragments.map((fragment) => readLink(fragment, limits, usual)),

  settings: ({ settings, page }) => settings.map((values) => recordOf(values, page)),

  fields({ records, page }) {
    return parseJson(records).map((record) => {
      try {
        return fieldsOf(record, page);
      } catch (error) {
        return { error: error.message, isForVisitors: error instanceof RecordError };
      }
    });
  },

  valid: ({ records }) =>
    parseJson(records).map((record) => {
      try {
        return validRecord(record);
      } catch (error) {
        return error instanceof RecordError ? error.message : { crash: String(error) };
      }
    }),

  broken({ png }) {
    try {
      return readRecord(bytes(png));
    } catch (error) {
      return error instanceof RecordError ? error.message : String(error);
    }
  },

  record({ png, record }) {
    const written = withRecord(bytes(png), record);
    return { png: Buffer.from(written).toString("base64"), read: readRecord(written), before: readRecord(bytes(png)) };
  },
};

const { task, ...values } = JSON.parse(readFileSync(0, "utf8"));
const exact = (_, value) => (typeof value === "bigint" ? `BigInt ${value}` : value); // JSON.stringify has no whole numbers so large
process.stdout.write(JSON.stringify(await TASKS[task](values), exact).replace(/"BigInt (-?\d+)"/g, "$1"));
