// Generating at the caret: one continuation goes into the document, several side by side.

import { complete } from "./api.js";
import { $, h, number } from "./dom.js";
import { FROM_ITS_END, requestSettings, setting } from "./settings.js";

const ENDS = { stop: "came to an end", length: "reached the length", abort: "was stopped" };

export class Writer {
  /** @param {import("./editor.js").Editor} editor */
  constructor(editor, { model, fail }) {
    this.editor = editor;
    this.model = model;
    this.fail = fail;
    this.running = null;
    this.last = null; // { start, end }: what was generated last
    $("generate").addEventListener("click", () => this.generate());
    $("stop").addEventListener("click", () => this.stop());
    $("continue").addEventListener("click", () => this.goOn());
    $("again").addEventListener("click", () => this.again());
    $("undo").addEventListener("click", () => editor.step(true));
    $("redo").addEventListener("click", () => editor.step(false));
    $("continuations-close").addEventListener("click", () => this.closeCards());
    this.update();
  }

  /** Enable the buttons that can do something. */
  update() {
    const running = this.running !== null;
    $("generate").hidden = running;
    $("stop").hidden = !running;
    $("undo").disabled = running || !this.editor.canUndo;
    $("redo").disabled = running || !this.editor.canRedo;
    $("continue").disabled = running || !this.stands();
    $("again").disabled = running || !this.stands();
  }

  /** Whether the last generated text is still unchanged. */
  stands() {
    return this.last !== null && this.editor.text.startsWith(this.last.before + this.last.text);
  }

  stop() {
    this.running?.abort();
  }

  goOn() {
    if (this.stands()) this.generate(this.last.before.length + this.last.text.length);
  }

  again() {
    if (!this.stands()) return;
    const { before, text } = this.last;
    const after = this.editor.text.slice(before.length + text.length);
    this.editor.put(before + after, before.length, { record: true });
    this.generate(before.length, { seed: undefined });
  }

  /** Generate at the caret; `other` settings override the form's. */
  async generate(caret = this.editor.caret, other = {}) {
    if (this.running) return;
    const several = setting("n") > 1;
    this.running = new AbortController();
    this.tokens = 0; // a chunk may hold several tokens, or none; the final count is the server's
    const hadFocus = $("generate") === document.activeElement;
    this.update();
    if (hadFocus) $("stop").focus();
    this.editor.lock(true);
    const began = performance.now();
    try {
      const how = await (several ? this.besides(caret, other) : this.into(caret, other));
      const seconds = (performance.now() - began) / 1000;
      this.report(`${number(this.tokens)} tokens in ${number(seconds, 1)} s, ${number(this.tokens / seconds)} a second; ${how}`);
    } catch (error) {
      this.report("");
      this.fail(error);
    } finally {
      const stopHadFocus = $("stop") === document.activeElement;
      this.running = null;
      this.editor.lock(false);
      this.update();
      if (stopHadFocus) $("generate").focus();
    }
  }

  report(text) {
    $("progress").textContent = text;
  }

  async *choices(prompt, other) {
    const { signal } = this.running;
    try {
      const request = { model: this.model(), prompt, ...FROM_ITS_END, ...requestSettings(), ...other };
      for await (const choice of complete(request, signal)) {
        if (choice.usage) this.tokens = choice.usage.completion_tokens;
        else yield choice;
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  async into(caret, other) {
    const { text } = this.editor;
    const [before, after] = [text.slice(0, caret), text.slice(caret)];
    this.editor.record();
    let [written, how] = ["", "stopped"];
    const speech = new Speech();
    try {
      for await (const choice of this.choices(before, other)) {
        this.tokens += 1;
        written += choice.text;
        if (choice.finish_reason) how = ENDS[choice.finish_reason] ?? choice.finish_reason;
        this.editor.put(before + written + after, before.length + written.length);
        this.editor.reveal(before.length + written.length);
        speech.add(choice.text);
        this.report(`Writing… ${number(this.tokens)} tokens`);
      }
    } finally {
      if (!written) this.editor.unrecord();
      this.last = { before, text: written }; // for "try again", whatever ended it
    }
    speech.end();
    return how;
  }

  async besides(caret, other) {
    const { text } = this.editor;
    const [before, after] = [text.slice(0, caret), text.slice(caret)];
    const cards = Array.from({ length: setting("n") }, (_, i) => new Card(i, (chosen) => {
      const same = this.editor.text === text; // else insert at the present caret, to keep what was typed since
      const [left, right] = same ? [before, after] : [this.editor.text.slice(0, this.editor.caret), this.editor.text.slice(this.editor.caret)];
      this.editor.put(left + chosen + right, left.length + chosen.length, { record: true });
      this.last = { before: left, text: chosen };
      this.closeCards();
      this.update();
      $("text").focus();
    }));
    $("continuations").hidden = false;
    $("cards").replaceChildren(...cards.map(({ element }) => element));
    for await (const choice of this.choices(before, other)) {
      this.tokens += 1;
      cards[choice.index].add(choice);
      this.report(`Writing… ${number(this.tokens)} tokens`);
    }
    for (const card of cards) card.end();
    $("spoken").textContent = `${cards.length} continuations are ready.`;
    return `${cards.length} continuations`;
  }

  closeCards() {
    const inside = $("continuations").contains(document.activeElement);
    this.stop();
    $("continuations").hidden = true;
    $("cards").replaceChildren();
    if (inside) $("text").focus();
  }
}

class Card {
  constructor(index, use) {
    this.written = "";
    this.how = "";
    this.text = h("p", { class: "card-text" });
    this.note = h("span", { class: "muted small" }, "writing…");
    this.button = h("button", { disabled: true, "aria-label": `Use continuation ${index + 1}`, onclick: () => use(this.written) }, "Use this");
    this.element = h("article", { class: "card", "aria-label": `Continuation ${index + 1}` },
      h("header", {}, h("h3", {}, `${index + 1}`), this.note), this.text, this.button);
  }

  add({ text, finish_reason: reason }) {
    this.written += text;
    this.text.textContent = this.written.replace(/^\s+/, "");
    if (reason) this.end(ENDS[reason] ?? reason);
  }

  end(how = "stopped") {
    this.how ||= how;
    this.note.textContent = this.how;
    this.button.disabled = false;
  }
}

/** Tells screen readers what was written, a sentence at a time. */
class Speech {
  held = "";

  add(text) {
    this.held += text;
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => this.held.lastIndexOf(mark)));
    if (end < 0) return;
    $("spoken").textContent = this.held.slice(0, end + 1);
    this.held = this.held.slice(end + 1);
  }

  end() {
    if (this.held.trim()) $("spoken").textContent = this.held;
  }
}
