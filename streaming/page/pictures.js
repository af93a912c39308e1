/** Pictures that were dropped, pasted or picked; they wait beside the message and go with the person's next words. */

const SIDE = 1280; // pixels of the longer side that are sent
const BYTES = 1500000; // a PNG or JPEG below this and within SIDE goes as it is
const MOST = 6;

const read = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

/** What a canvas can hold of a picture or a video's frame, as a JPEG data URL. */
export function jpeg(source, width, height, side, quality) {
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // JPEG knows no transparency
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", quality);
}

async function prepare(blob) {
  const bitmap = await createImageBitmap(blob);
  const small = Math.max(bitmap.width, bitmap.height) <= SIDE && blob.size <= BYTES;
  if (small && ["image/png", "image/jpeg"].includes(blob.type)) return read(blob);
  return jpeg(bitmap, bitmap.width, bitmap.height, SIDE, 0.88);
}

export class Pictures {
  /** @param notice shows a text. */
  constructor(notice) {
    this.notice = notice;
    this.list = document.querySelector("#pending");
    this.waiting = []; // {url, name, node}
    this.seen = true; // whether the model sees
    const file = document.querySelector("#file");
    document.querySelector("#picture").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      this.add(file.files);
      file.value = "";
    });
    document.addEventListener("paste", ({ clipboardData }) => this.add(clipboardData.files));
    this.#drop(document.querySelector("#drop"));
  }

  #drop(veil) {
    let depth = 0; // entering a child fires before leaving its parent
    const show = (by) => (veil.hidden = (depth = by ? Math.max(0, depth + by) : 0) === 0);
    const holds = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragenter", (event) => holds(event) && show(1));
    document.addEventListener("dragleave", (event) => holds(event) && show(-1));
    document.addEventListener("dragover", (event) => holds(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      show(0);
      this.add(event.dataTransfer.files);
    });
  }

  async add(files) {
    if (!this.seen && files.length) return this.notice("This model does not see. Write to it.");
    for (const file of [...files]) {
      if (this.waiting.length >= MOST) return this.notice(`${MOST} pictures are the most for one turn.`);
      try {
        this.#wait(await prepare(file), file.name || "Picture");
      } catch {
        this.notice(`${file.name || "This"} is not a picture that the browser can read.`);
      }
    }
  }

  #wait(url, name) {
    const node = document.createElement("li");
    const image = node.appendChild(document.createElement("img"));
    image.src = url;
    image.alt = "";
    node.appendChild(document.createElement("span")).textContent = name;
    const remove = node.appendChild(document.createElement("button"));
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${name}`);
    const picture = { url, name, node };
    remove.addEventListener("click", () => {
      this.waiting = this.waiting.filter((other) => other !== picture);
      node.remove();
      document.querySelector("#picture").focus();
    });
    this.waiting.push(picture);
    this.list.append(node);
  }

  /** Hands over what waits. */
  take() {
    const taken = this.waiting;
    this.waiting = [];
    this.list.replaceChildren();
    return taken;
  }
}
