/** What is seen: elements by name, sentences, progress and pictures. */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page lacks ${id}`);
  return found;
}

const shown = (/** @type {string} */ id) => element(id, HTMLElement);

/**
 * A sentence, or none.
 * @param {"trouble" | "advice" | "status" | "verdict" | "kept" | "background" | "facts" | "engine"} id
 * @param {string} text
 */
export function say(id, text) {
  shown(id).textContent = text;
  if (["trouble", "advice", "engine"].includes(id)) shown(id).hidden = text === "";
}

/** @type {Map<string, string>} what a person should know, by what it is about */
const advice = new Map();

/**
 * Something to know, which stays until there is another sentence about the same; empty: no more of it.
 * @param {"connection" | "gpu" | "killed" | "storage" | "prompt"} about
 * @param {string} text
 */
export function advise(about, text) {
  advice.delete(about);
  if (text !== "") advice.set(about, text);
  say("advice", [...advice.values()].join("\n"));
}

/**
 * @param {number | null} share null: nothing is going on
 */
export function progress(share) {
  const bar = shown("progress");
  const percent = Math.round(100 * (share ?? 0));
  bar.classList.toggle("busy", share !== null);
  bar.setAttribute("aria-valuenow", String(percent));
  /** @type {HTMLElement} */ (bar.firstElementChild).style.width = `${percent}%`;
}

/** @param {import("./pipeline.mjs").Picture} picture */
export function showPicture({ width, height, pixels }) {
  const canvas = element("picture", HTMLCanvasElement);
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d")?.putImageData(new ImageData(pixels, width, height), 0, 0);
  shown("stage").style.aspectRatio = `${width} / ${height}`;
  shown("stage").classList.remove("empty");
}

/**
 * @param {string} thumbnail PNG as base64; empty where the subject holds none
 * @param {boolean} large before anything is drawn of it
 */
export function showSubject(thumbnail, large) {
  const image = element("subject", HTMLImageElement);
  image.hidden = thumbnail === "";
  if (thumbnail !== "") image.src = `data:image/png;base64,${thumbnail}`;
  shown("stage").classList.toggle("empty", large && thumbnail !== "");
}

/**
 * A slider at the bundle's own value, which may lie between its steps or beyond its end.
 * @param {string} id
 * @param {number} value
 */
export function showRange(id, value) {
  const range = element(id, HTMLInputElement);
  range.max = String(Math.max(Number(range.max), value));
  const steps = value / Number(range.step || 1);
  if (Math.abs(steps - Math.round(steps)) > 1e-6) range.step = "any";
  range.value = String(value);
  const show = () => (element(`${id}-shown`, HTMLOutputElement).value = String(Number(Number(range.value).toFixed(3))));
  range.addEventListener("input", show);
  show();
}

/**
 * Rows of a name and a figure.
 * @param {"checks" | "figures"} id
 * @param {[string, string, boolean?][]} rows
 */
export function showFigures(id, rows) {
  const [outer, name, value] = id === "checks" ? ["li", "span", "b"] : ["", "dt", "dd"];
  const list = shown(id);
  list.replaceChildren();
  for (const [title, figure, right] of rows) {
    const parent = outer ? list.appendChild(document.createElement(outer)) : list;
    parent.appendChild(document.createElement(name)).textContent = title;
    const cell = parent.appendChild(document.createElement(value));
    cell.textContent = figure;
    if (right !== undefined) cell.className = right ? "right" : "wrong";
  }
}

/**
 * A file for the person.
 * @param {Blob} blob
 * @param {string} name
 */
export function offerFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** @returns {Promise<File>} */
export function pictureFile() {
  return new Promise((resolve, reject) =>
    element("picture", HTMLCanvasElement).toBlob((blob) => {
      if (blob === null) reject(new Error("this browser cannot write the picture"));
      else resolve(new File([blob], `dreamcache-${Date.now()}.png`, { type: "image/png" }));
    }, "image/png"),
  );
}

/**
 * How the background went. The desk's words advise a mask, which a phone has not.
 * @param {string} how
 */
export function backgroundSentence(how) {
  const [said, advice] = how.split(/[:;] (?:look at the result, or )?give a mask/);
  const sentence = `${said.charAt(0).toUpperCase()}${said.slice(1)}.`;
  if (advice === undefined) return sentence;
  const desk = advice.split(", or install GrabCut with: ")[1];
  const install = desk === undefined ? "" : ` At your desk, ${desk} helps too.`;
  return `${sentence} Not right? Take it in front of a plain background.${install}`;
}

/** @param {number} ms */
export function duration(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)} s`;
  return ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${ms.toPrecision(ms < 10 ? 2 : 3)} ms`;
}
