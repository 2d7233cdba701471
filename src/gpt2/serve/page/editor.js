// The document: a text area, and behind it the same text coloured by how likely the model found each token.
// Beside it the same tokens as a list, for the keyboard and for screen readers.

import { $, coloured, h, later, visible } from "./dom.js";
import { classOf, nameOf, read, unchanged } from "./reading.js";

const KEY = "gpt2-document";
const area = $("text");
const mirror = $("mirror");
const list = $("tokens");

const past = [];
const future = [];
let present = { text: "", caret: 0 };
let grouping = 0; // until then, typing belongs to the last undo step
let kept = null;

/** Keep the text for a reload of this window, and for the next window. */
function keep() {
  if (area.value === kept) return; // do not overwrite what another window kept since
  kept = area.value;
  for (const storage of ["sessionStorage", "localStorage"]) {
    try {
      window[storage].setItem(KEY, kept);
    } catch {
      // storage may be forbidden
    }
  }
}

export class Editor {
  /** @param {{model: () => string, focused: (position) => void, slow: () => void, analysed: (reading) => void, fail: (error) => void}} calls */
  constructor(calls) {
    this.calls = calls;
    this.reading = null;
    this.position = null;
    this.locked = false;
    this.spans = [];
    this.rest = document.createTextNode(""); // what is not coloured, and room for the caret after a last new line
    this.asking = null;
    this.askLater = later(350, () => this.analyse());
    this.keepLater = later(300, keep);
    window.addEventListener("pagehide", keep);
    area.addEventListener("input", () => this.typed());
    area.addEventListener("beforeinput", (event) => {
      if (event.inputType === "historyUndo" || event.inputType === "historyRedo") {
        event.preventDefault();
        this.step(event.inputType === "historyUndo");
      }
    });
    area.addEventListener("keydown", (event) => {
      if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
      const key = event.key.toLowerCase();
      if (key === "z" || key === "y") {
        event.preventDefault();
        this.step(key === "z" && !event.shiftKey);
      }
    });
    document.addEventListener("selectionchange", () => document.activeElement === area && this.followCaret());
    let width = 0;
    new ResizeObserver(() => {
      if (mirror.clientWidth === width) return;
      width = mirror.clientWidth; // lines break elsewhere now
      if (!width) return; // it is hidden
      this.painted = null;
      this.paint();
    }).observe(mirror);
    this.hoverLater = later(220, (position) => this.focus(position));
    area.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.hover(event));
    area.addEventListener("pointerleave", () => this.hoverLater.cancel());
    list.addEventListener("pointerover", (event) => event.target.dataset.t && this.hoverLater(Number(event.target.dataset.t)));
    list.addEventListener("click", (event) => {
      const token = event.target.closest("[data-t]");
      if (token) this.rove(Number(token.dataset.t));
    });
    list.addEventListener("keydown", (event) => this.moved(event));
    list.addEventListener("focusin", (event) => event.target.dataset.t && this.focus(Number(event.target.dataset.t)));
  }

  get text() {
    return area.value;
  }

  get caret() {
    return area.selectionEnd;
  }

  /** The text from before a reload, or from the last window. */
  restore() {
    let text = "";
    try {
      text = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
      sessionStorage.setItem(KEY, text); // this window's own from now on
    } catch {
      // storage may be forbidden
    }
    kept = text;
    this.put(text, text.length);
    present = { text, caret: text.length };
  }

  /** Replace the text; with `record`, as a step that can be undone. */
  put(text, caret, { record = false } = {}) {
    if (record) this.record();
    area.value = text;
    area.setSelectionRange(caret, caret);
    present = { text, caret };
    this.changed();
  }

  /** Begin a step that can be undone. */
  record() {
    past.push({ text: area.value, caret: area.selectionEnd });
    if (past.length > 500) past.shift();
    future.length = 0;
    grouping = 0;
  }

  /** Drop the step just begun. */
  unrecord() {
    past.pop();
  }

  step(back) {
    const [from, to] = back ? [past, future] : [future, past];
    if (this.locked || !from.length) return;
    to.push({ text: area.value, caret: area.selectionEnd });
    const { text, caret } = from.pop();
    grouping = 0;
    this.put(text, caret);
  }

  get canUndo() {
    return past.length > 0;
  }

  get canRedo() {
    return future.length > 0;
  }

  lock(locked) {
    this.locked = locked;
    area.readOnly = locked;
    if (!locked) this.askLater();
  }

  typed() {
    if (Date.now() > grouping) {
      past.push(present);
      future.length = 0;
    }
    grouping = Date.now() + 800;
    present = { text: area.value, caret: area.selectionEnd };
    this.changed();
  }

  changed() {
    this.paint();
    this.keepLater();
    if (!this.locked) this.askLater();
    this.calls.changed?.();
  }

  async analyse() {
    this.askLater.cancel();
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    const text = area.value;
    const slow = setTimeout(() => this.calls.slow(), 700);
    try {
      const reading = await read(text, this.calls.model(), signal);
      if (signal.aborted) return;
      this.reading = reading;
      this.paint();
      this.calls.analysed(reading);
      if (reading.text === area.value) this.followCaret(true);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.calls.analysed(this.reading ?? { tokens: [] });
      if (text === area.value) this.calls.fail(error);
    } finally {
      clearTimeout(slow);
    }
  }

  /** Colour what has not changed since the request to the server; the rest stays plain until the answer. */
  paint() {
    const text = area.value;
    const known = this.reading ? unchanged(this.reading, text) : 0;
    // while a text grows, update only its end
    const kept = this.painted === this.reading ? Math.min(known, this.spans.length) : 0;
    this.painted = this.reading;
    for (const span of this.spans.splice(kept)) span.remove();
    if (!kept) mirror.replaceChildren(this.rest);
    for (let t = kept; t < known; t += 1) {
      const kind = classOf(this.reading.tokens[t].rank);
      const span = h("span", { class: `t ${kind ? kind.name : "first"}`, "data-t": t });
      span.textContent = text.slice(this.reading.starts[t], this.reading.ends[t]);
      this.spans.push(span);
    }
    this.rest.before(...this.spans.slice(kept));
    this.rest.data = `${text.slice(known ? this.reading.ends[known - 1] : 0)}\u200b`;
    this.trim(kept);
    this.mark();
    if (!list.hidden) this.fillList();
  }

  /** Take the colour from spaces left at the end of a line by words that went on to the next. Only from these: where a
      word's colour is in an element of its own, lines may break at other places than those of the text area. */
  trim(first) {
    const broken = this.spans.slice(first).filter((span) => span.textContent.startsWith(" ") && span.getClientRects().length > 1);
    for (const span of broken) {
      const cut = coloured(span.textContent, { class: span.className, "data-t": span.dataset.t });
      this.spans[Number(span.dataset.t)] = cut;
      span.replaceWith(cut);
    }
  }

  fillList() {
    const { tokens } = this.reading ?? { tokens: [] };
    const here = Math.min(this.position ?? 0, tokens.length);
    const options = tokens.map((token, t) => {
      const kind = classOf(token.rank);
      const option = h("span", { role: "option", class: `t ${kind ? kind.name : "first"}`, "data-t": t, "aria-label": nameOf(token), "aria-selected": t === here ? "true" : "false", tabindex: t === here ? 0 : -1 });
      option.append(token.piece.endsWith("\n") ? h("span", { class: "break" }, visible(token.piece)) : visible(token.piece));
      return option;
    });
    options.push(h("span", { role: "option", class: "t next", "data-t": tokens.length, "aria-label": "What comes next", "aria-selected": here === tokens.length ? "true" : "false", tabindex: here === tokens.length ? 0 : -1 }, "next"));
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...options);
    if (focused) list.querySelector("[tabindex='0']").focus();
  }

  showTokens(show) {
    list.hidden = !show;
    mirror.hidden = area.hidden = show;
    if (show) {
      this.fillList();
      list.querySelector("[tabindex='0']")?.focus();
    } else {
      area.focus();
    }
  }

  moved(event) {
    const at = Number(document.activeElement.dataset.t ?? 0);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: list.children.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.rove(Math.max(0, Math.min(list.children.length - 1, to)));
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.calls.enter?.();
    }
  }

  rove(t) {
    list.children[t]?.focus();
    list.children[t]?.scrollIntoView({ block: "nearest" });
  }

  /** The token at the caret is the one looked at; at the end of the text, what comes next. */
  followCaret(again = false) {
    const { reading } = this;
    if (this.locked || !reading || !list.hidden) return;
    if (area.selectionStart !== area.selectionEnd) return;
    const known = unchanged(reading, area.value);
    const caret = area.selectionEnd;
    let position = reading.ends.findIndex((end) => caret < end);
    if (position < 0) position = reading.ids.length;
    const sure = position < known || (position === reading.ids.length && reading.text === area.value);
    if (sure && (again || position !== this.position)) this.focus(position, again);
  }

  hover(event) {
    if (this.locked) return;
    const span = document.elementsFromPoint(event.clientX, event.clientY).find((each) => each.dataset?.t && mirror.contains(each));
    if (span) this.hoverLater(Number(span.dataset.t));
    else this.hoverLater.cancel();
  }

  focus(position, again = false) {
    if (position === this.position && !again) return;
    this.position = position;
    this.mark();
    this.calls.focused(position);
  }

  mark() {
    mirror.querySelector(".here")?.classList.remove("here");
    const span = this.spans[this.position];
    (span?.matches(".t") ? span : span?.lastChild)?.classList.add("here");
    for (const option of list.children) {
      const here = Number(option.dataset.t) === this.position;
      option.tabIndex = here ? 0 : -1;
      option.setAttribute("aria-selected", here);
    }
  }

  /** Give the keyboard focus back. */
  focusBack() {
    if (list.hidden) area.focus();
    else list.querySelector("[tabindex='0']")?.focus();
  }

  /** Keep what is being written in view. */
  reveal(caret) {
    area.setSelectionRange(caret, caret);
    const range = document.createRange();
    range.selectNodeContents(this.rest);
    const { bottom } = range.getBoundingClientRect();
    const room = window.innerHeight - 140;
    if (caret === area.value.length && bottom > room) window.scrollBy({ top: bottom - room });
  }
}
