/** What a model may be asked: the bundled one knows a small world of shapes, others are asked what anybody may ask. */

const BUNDLED = {
  pictures: [
    { file: "sample-scene.png", text: "Shapes on a board", ask: "How many red circles are there?" },
    { file: "sample-two.png", text: "Fewer shapes", ask: "What do you see?" },
  ],
  questions: ["Who are you?", "What can you do?", "What is two plus three?"],
};
const ANY = { pictures: [], questions: ["What can you do?", "Tell me a short story.", "What is in this picture?"] };

export class Samples {
  /** @param on callbacks: ask(text); show(file, name), a promise that is kept once the picture waits. */
  constructor(on) {
    this.on = on;
  }

  /** @param can what the model does; bundled whether it is the small one. */
  fill({ sees }, bundled) {
    const { pictures, questions } = bundled ? BUNDLED : ANY;
    const buttons = questions.filter((text) => sees || !text.includes("picture")).map((text) => this.#button(text, () => this.on.ask(text)));
    document.querySelector("#sample-questions").replaceChildren(...buttons);
    document.querySelector("#sample-pictures").replaceChildren(...(sees ? pictures : []).map((picture) => this.#picture(picture)));
  }

  #button(text, act) {
    const item = document.createElement("li");
    const button = item.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", act);
    return item;
  }

  #picture({ file, text, ask }) {
    const item = this.#button("", async () => {
      await this.on.show(file, text);
      this.on.ask(ask);
    });
    const image = document.createElement("img");
    image.src = file;
    image.alt = text;
    const words = document.createElement("span");
    words.textContent = ask;
    item.firstChild.append(image, words);
    return item;
  }
}
