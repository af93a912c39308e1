/** Streaming resampler: a windowed sinc, read from a table. Pieces of any size give what the whole would give. */

const CROSSINGS = 16; // of the sinc on either side
const FINE = 128; // table entries per input sample

export class Resampler {
  constructor(rateIn, rateOut) {
    const cut = Math.min(1, rateOut / rateIn) * 0.94; // room for the slope of the filter below half the lower rate
    Object.assign(this, { rateIn, rateOut });
    this.half = Math.ceil(CROSSINGS / cut);
    this.table = Float32Array.from({ length: this.half * FINE + 2 }, (_, i) => {
      const x = i / FINE;
      if (x >= this.half) return 0;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * cut * x) / (Math.PI * cut * x);
      return cut * sinc * Math.cos((Math.PI * x) / this.half / 2) ** 2;
    });
    this.kept = new Float32Array(this.half); // silence before the beginning
    this.whole = this.half; // where the next sample lies among those kept, and
    this.part = 0; // how many parts of rateOut after it: sums of fractions would drift
  }

  push(input) {
    const { half, table, rateOut } = this;
    const wave = new Float32Array(this.kept.length + input.length);
    wave.set(this.kept);
    wave.set(input, this.kept.length);
    const output = [];
    while (this.whole + 1 + half < wave.length) {
      const at = this.whole + this.part / rateOut;
      let sum = 0;
      for (let n = Math.ceil(at - half); n <= at + half; n++) {
        const x = Math.abs(n - at) * FINE;
        const i = Math.floor(x);
        sum += wave[n] * (table[i] + (table[i + 1] - table[i]) * (x - i));
      }
      output.push(sum);
      this.part += this.rateIn;
      this.whole += Math.floor(this.part / rateOut);
      this.part %= rateOut;
    }
    const past = this.whole - half;
    this.kept = wave.slice(past);
    this.whole -= past;
    return output;
  }
}
