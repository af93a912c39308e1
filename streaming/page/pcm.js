/** Sound as the server wants it: 16-bit samples at 24 kHz, as base64 on the wire and as a WAV file. */

export const RATE = 24000;

export function toBase64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

export function fromBase64(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length & ~1);
  for (let at = 0; at < bytes.length; at++) bytes[at] = raw.charCodeAt(at);
  return new Int16Array(bytes.buffer);
}

/** Root mean square of samples, 0 to 1. */
export function loudness(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return samples.length ? Math.sqrt(sum / samples.length) / 32768 : 0;
}

export const decibels = (level) => 20 * Math.log10(Math.max(level, 1e-5));

/** A stereo WAV file of two sides of one length. */
export function wav(left, right) {
  const frames = left.length;
  const data = new DataView(new ArrayBuffer(44 + frames * 4));
  const text = (at, letters) => [...letters].forEach((letter, i) => data.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  data.setUint32(4, 36 + frames * 4, true);
  text(8, "WAVEfmt ");
  data.setUint32(16, 16, true);
  data.setUint16(20, 1, true);
  data.setUint16(22, 2, true);
  data.setUint32(24, RATE, true);
  data.setUint32(28, RATE * 4, true);
  data.setUint16(32, 4, true);
  data.setUint16(34, 16, true);
  text(36, "data");
  data.setUint32(40, frames * 4, true);
  for (let at = 0; at < frames; at++) {
    data.setInt16(44 + at * 4, left[at], true);
    data.setInt16(46 + at * 4, right[at], true);
  }
  return new Blob([data], { type: "audio/wav" });
}
