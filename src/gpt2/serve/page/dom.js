// Making elements. Text from the model or the server only ever becomes text nodes.

/** An element: `h("p", { class: "a", onclick: f, "aria-label": "b" }, child, "text")`. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Calls `f` once things have been quiet for a while; `.cancel()` forgets it. */
export function later(milliseconds, f) {
  let timer = 0;
  const call = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => f(...given), milliseconds);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}

/** A probability for people: 46 %, 4.6 %, 0.05 %. */
export function percent(p) {
  const value = 100 * p;
  if (value >= 9.95) return `${Math.round(value)} %`;
  if (value >= 0.995) return `${value.toFixed(1)} %`;
  if (value === 0) return "0 %";
  return value >= 0.005 ? `${value.toFixed(2)} %` : "< 0.01 %";
}

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
const code = (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const UNSEEN = { " ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍" };
const SPOKEN = { " ": "space", "\n": "new line", "\t": "tab" };

/** A token made visible: white space and other invisible characters have marks. */
export function visible(piece) {
  const text = piece.startsWith("bytes:") ? piece.slice(6) : piece;
  const start = /^\s*/.exec(text)[0];
  return h("span", { class: "piece" }, marks(start), text.slice(start.length).replace(INVISIBLE, (c) => UNSEEN[c] ?? code(c)));
}

function marks(space) {
  const text = [...space].map((c) => UNSEEN[c] ?? code(c)).join("");
  return text ? h("span", { class: "space" }, text) : null;
}

/** A token in its text, with a colour. Its leading space has none: at the end of a line it would show as a sliver. */
export function coloured(text, attributes) {
  const bare = text.length > 1 && text.startsWith(" ") ? 1 : 0;
  return h("span", {}, text.slice(0, bare), h("span", attributes, text.slice(bare)));
}

/** A token as a screen reader should say it. */
export function spoken(piece) {
  if (piece.startsWith("bytes:")) return `bytes ${piece.slice(6)}`;
  const text = piece.trim().replace(INVISIBLE, (c) => ` ${SPOKEN[c] ?? code(c)} `).trim();
  if (text) return text;
  return piece ? [...piece].map((c) => SPOKEN[c] ?? "white space").join(", ") : "nothing";
}

/** A number with a bar behind it, for a table cell. */
export function bar(share, text, kind = "") {
  return h("span", { class: `bar ${kind}`, style: { "--share": Math.max(0, Math.min(1, share)) } }, text);
}
