// Text chunks of PNG files: the record of how a picture was made, as `ccld sample` writes it.

import { asciiJson, parseRecord } from "./valid-record.js";

const KEYWORD = "ccld";

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  for (let bit = 0; bit < 8; bit++) i = i & 1 ? 0xedb88320 ^ (i >>> 1) : i >>> 1;
  return i;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** A PNG file with a record: a copy of its bytes with a text chunk behind the header. */
export function withRecord(png, record) {
  const text = new TextEncoder().encode(`tEXt${KEYWORD}\0${asciiJson(record)}`);
  const chunk = new Uint8Array(text.length + 8);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, text.length - 4);
  chunk.set(text, 4);
  view.setUint32(text.length + 4, crc32(text));
  const headerEnd = 8 + 25; // the signature, and the chunk IHDR
  const result = new Uint8Array(png.length + chunk.length);
  result.set(png.subarray(0, headerEnd));
  result.set(chunk, headerEnd);
  result.set(png.subarray(headerEnd), headerEnd + chunk.length);
  return result;
}

/** The record of a PNG file, or null. Throws a RecordError if it is not JSON. */
export function readRecord(png) {
  const view = new DataView(png.buffer, png.byteOffset, png.byteLength);
  for (let start = 8; start + 12 <= png.length; ) {
    const length = view.getUint32(start);
    const body = new TextDecoder("latin1").decode(png.subarray(start + 4, start + 8 + length));
    if (body.startsWith(`tEXt${KEYWORD}\0`)) return parseRecord(body.slice(5 + KEYWORD.length));
    start += 12 + length;
  }
  return null;
}
