/** Which letter of a text is being spoken, when all that is known is the text and how much of its sound was played. */

let pace = 15; // weight of text per second of speech, learnt from every answer that was spoken to its end

const PAUSES = { ".": 5, "!": 5, "?": 5, ":": 4, ";": 4, ",": 3, "\n": 4 };
const weigh = (letter) => PAUSES[letter] ?? (/\s/.test(letter) ? 0.5 : 1);

export class Alignment {
  constructor() {
    this.text = "";
    this.ends = []; // weight of the text up to and with each letter
    this.received = 0; // seconds of sound
    this.whole = false; // all sound is there, so its length is known
  }

  append(text) {
    let sum = this.ends.at(-1) ?? 0;
    for (const letter of text.split("")) this.ends.push((sum += weigh(letter)));
    this.text += text;
  }

  receive(seconds) {
    this.received += seconds;
  }

  end() {
    this.whole = true;
    const total = this.ends.at(-1) ?? 0;
    if (this.received > 0.5 && total > 4) pace += 0.5 * (total / this.received - pace);
  }

  #reached(seconds) {
    const total = this.ends.at(-1) ?? 0;
    const rate = this.whole && this.received > 0 ? total / this.received : pace;
    const weight = seconds * rate + 1e-6;
    let low = 0;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] <= weight) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Letters to show as spoken: with the word that has begun. */
  begun(seconds) {
    if (seconds <= 0) return 0;
    const at = this.#reached(seconds);
    const rest = /^\S*/.exec(this.text.slice(at))[0];
    return at + rest.length;
  }

  /** Letters to keep when the sound was cut: without the word that was not finished. */
  finished(seconds) {
    const at = this.#reached(seconds);
    if (at >= this.text.length) return at;
    return /\s/.test(this.text[at]) ? at : this.text.slice(0, at).search(/\s\S*$/) + 1;
  }
}
