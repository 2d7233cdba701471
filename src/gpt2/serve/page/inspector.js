// One place of the text in detail: the alternatives, the prediction layer by layer, and the attention.

import { postJson } from "./api.js";
import { $, bar, coloured, h, later, number, percent, spoken, visible } from "./dom.js";
import { classOf, standingOf } from "./reading.js";
import { filterSettings } from "./settings.js";

const MEAN = -1;

export class Inspector {
  /** @param {{model: () => object, choose: (position, piece) => void, back: () => void, fail: (error) => void}} calls */
  constructor(calls) {
    this.calls = calls;
    this.body = $("inspector-body");
    this.reading = null;
    this.position = null;
    this.layer = 0;
    this.head = MEAN;
    this.asking = null;
    this.fetchLater = later(140, () => this.fetch());
    this.body.addEventListener("keydown", (event) => this.moved(event));
    this.build();
  }

  build() {
    this.title = h("p", { class: "token-title" });
    this.subtitle = h("p", { class: "muted", id: "inspector-subtitle" });
    this.alternatives = h("div", {});
    this.lens = h("div", {});
    this.layerSelect = h("select", { id: "layer", onchange: () => this.choose(Number(this.layerSelect.value), this.head) });
    this.headSelect = h("select", { id: "head", onchange: () => this.choose(this.layer, Number(this.headSelect.value)) });
    this.attention = h("div", {});
    this.empty = h("p", { class: "muted" }, "Point at a word, or move the caret to it, to see what the model expected in its place.");
    this.parts = h("div", { hidden: true },
      this.title, this.subtitle,
      h("section", { "aria-labelledby": "alternatives-title" },
        h("h3", { id: "alternatives-title" }, "What might stand here"), this.alternatives),
      h("section", { "aria-labelledby": "lens-title" },
        h("h3", { id: "lens-title" }, "Layer by layer"),
        h("p", { class: "muted" }, "What the model would say if it stopped after each layer (the logit lens)."), this.lens),
      h("section", { "aria-labelledby": "attention-title" },
        h("h3", { id: "attention-title" }, "Where it looked"),
        h("div", { class: "pair" },
          h("div", {}, h("label", { for: "layer" }, "Layer"), this.layerSelect),
          h("div", {}, h("label", { for: "head" }, "Head"), this.headSelect)),
        this.attention));
    this.body.replaceChildren(this.empty, this.parts);
  }

  /** Take over the layers and heads of another model. */
  fit({ n_layer = 0, n_head = 0 } = {}) {
    this.layer = Math.min(this.layer, Math.max(0, n_layer - 1));
    this.layerSelect.replaceChildren(...Array.from({ length: n_layer }, (_, i) => h("option", { value: i }, `${i + 1} of ${n_layer}`)));
    this.headSelect.replaceChildren(h("option", { value: MEAN }, "Mean of all"), ...Array.from({ length: n_head }, (_, i) => h("option", { value: i }, `${i + 1} of ${n_head}`)));
    this.layerSelect.value = this.layer;
    this.headSelect.value = this.head = MEAN;
  }

  choose(layer, head) {
    const other = layer !== this.layer;
    this.layer = layer;
    this.head = head;
    this.headSelect.value = head;
    if (other) this.fetchLater();
    else this.showAttention();
  }

  clear() {
    $("peek").hidden = true;
    this.position = null;
    this.parts.hidden = true;
    this.empty.hidden = false;
  }

  /** Look at a place; the number of tokens is the place after the last. */
  show(reading, position) {
    this.reading = reading;
    this.position = position;
    this.view = null;
    this.empty.hidden = true;
    this.parts.hidden = false;
    const token = reading.tokens[position];
    $("peek").hidden = false; // for narrow screens, where the inspector is far below
    $("peek").replaceChildren(
      h("span", {}, token ? visible(token.piece) : "What comes next"),
      h("span", {}, token ? standingOf(token) : ""),
      h("span", { class: "go" }, "Inspector ↓"));
    this.title.replaceChildren(token ? visible(token.piece) : "What comes next");
    if (position === 0 && !token) return this.clear();
    if (position === 0) {
      this.subtitle.textContent = "The first token: nothing comes before it that could predict it.";
      for (const part of [this.alternatives, this.lens, this.attention]) part.replaceChildren();
      this.parts.classList.add("nothing");
      return;
    }
    this.parts.classList.remove("nothing");
    if (token) {
      const kind = classOf(token.rank);
      this.subtitle.replaceChildren(
        h("span", { class: `t ${kind.name}` }, kind.label.toLowerCase()),
        ` rank ${number(token.rank + 1)} · ${percent(token.probability)} · ${number(-Math.log2(token.probability), 1)} bits · id ${token.id}`);
      this.showAlternatives(token.top.map((each) => ({ ...each, after: undefined })), token);
    } else {
      this.subtitle.textContent = "After the last token.";
      this.alternatives.replaceChildren(h("p", { class: "muted" }, "Asking the model…"));
    }
    this.fetchLater();
  }

  async fetch() {
    const { reading, position } = this;
    if (position === null || position === 0) return;
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.body.setAttribute("aria-busy", "true");
    try {
      const { id } = this.calls.model();
      const request = { model: id, prompt: reading.ids.slice(0, position + 1), position, layer: this.layer, ...filterSettings() };
      const view = await postJson("v1/inspect", request, signal);
      if (signal.aborted || position !== this.position || reading !== this.reading) return;
      this.view = view;
      const alternatives = view.alternatives.map(({ id: other, logprob, filtered_logprob: filtered }) => ({
        id: other,
        piece: view.pieces[other],
        probability: Math.exp(logprob),
        after: filtered === null ? null : Math.exp(filtered),
      }));
      this.showAlternatives(alternatives, reading.tokens[position]);
      this.showLens();
      this.showAttention();
    } catch (error) {
      if (error.name !== "AbortError") this.calls.fail(error);
    } finally {
      if (!signal.aborted) this.body.removeAttribute("aria-busy");
    }
  }

  showAlternatives(alternatives, token) {
    const focused = this.alternatives.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const rows = alternatives.map(({ id, piece, probability, after }) => {
      const written = token?.id === id;
      const whole = !piece.startsWith("bytes:");
      const choose = h("button", { class: "alternative", "data-id": id, disabled: !whole, "aria-label": `Write ${spoken(piece)} here and go on`, title: whole ? "Write this here and go on" : "A part of a character", onclick: () => this.calls.choose(this.position, piece) }, visible(piece));
      return h("tr", { class: written ? "written" : null },
        h("th", { scope: "row" }, choose, written && h("span", { class: "tag" }, "written")),
        h("td", {}, bar(probability, percent(probability))),
        h("td", {}, after === undefined ? h("span", { class: "muted" }, "…") : after === null ? h("span", { class: "muted" }, "left out") : bar(after, percent(after), "after")));
    });
    if (token && !alternatives.some(({ id }) => id === token.id)) {
      rows.push(h("tr", { class: "written" },
        h("th", { scope: "row" }, h("span", { class: "alternative plain" }, visible(token.piece)), h("span", { class: "tag" }, `written, rank ${number(token.rank + 1)}`)),
        h("td", {}, bar(token.probability, percent(token.probability))), h("td", {})));
    }
    const kept = this.view ? `Of all tokens the filters keep ${number(this.view.kept)}.` : "";
    this.alternatives.replaceChildren(
      h("table", { class: "wide" },
        h("caption", { class: "hidden" }, "The ten likeliest tokens. Each can be chosen."),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Token"), h("th", { scope: "col" }, "Model"), h("th", { scope: "col" }, "After filters"))),
        h("tbody", {}, rows)),
      h("p", { class: "muted small" }, kept));
    if (focused) this.alternatives.querySelector(`[data-id="${focused}"]`)?.focus();
  }

  showLens() {
    const { lens, pieces } = this.view;
    const known = lens[0].rank !== null;
    const rows = lens.map(({ depth, rank, logprob, top_logprobs: top }) =>
      h("tr", {},
        h("th", { scope: "row", class: "num" }, depth === 0 ? "in" : `${depth}`),
        h("td", {}, visible(pieces[top[0][0]])),
        known
          ? [h("td", { class: "num" }, h("span", { class: `t ${classOf(rank).name}` }, number(rank + 1))), h("td", {}, bar(Math.exp(logprob), percent(Math.exp(logprob))))]
          : [h("td", {}, bar(Math.exp(top[0][1]), percent(Math.exp(top[0][1])))), h("td", {}, visible(pieces[top[1][0]]))]));
    const heads = known ? ["Layer", "First guess", "Rank", "Probability"] : ["Layer", "First guess", "Probability", "Second"];
    this.lens.replaceChildren(scrolled("Layers", h("table", { class: "wide" },
      h("caption", { class: "hidden" }, "The logit lens: first guess after each layer, and rank and probability of the token that stands here."),
      h("thead", {}, h("tr", {}, heads.map((each) => h("th", { scope: "col", class: /Layer|Rank/.test(each) ? "num" : null }, each)))),
      h("tbody", {}, rows))));
  }

  showAttention() {
    if (!this.view?.attention) return;
    const { attention, skipped } = this.view;
    const mean = attention[0].map((_, t) => attention.reduce((sum, row) => sum + row[t], 0) / attention.length);
    const weights = this.head === MEAN ? mean : attention[this.head];
    const tokens = this.reading.tokens.slice(skipped, skipped + weights.length);
    const most = Math.max(...weights);
    const { text, starts, ends } = this.reading;
    const shades = weights.map((weight, t) => coloured(text.slice(starts[skipped + t], ends[skipped + t]), { class: "shade", style: { "--share": weight / most } }));
    const order = weights.map((weight, t) => [weight, t]).sort((a, b) => b[0] - a[0]);
    const rowOf = ([weight, t]) => h("tr", {}, h("th", { scope: "row" }, visible(tokens[t].piece)), h("td", { class: "num muted" }, number(skipped + t + 1)), h("td", {}, bar(weight / most, percent(weight))));
    const columns = () => h("thead", {}, h("tr", {}, ["Token", "Place", "Weight"].map((each) => h("th", { scope: "col", class: each === "Place" ? "num" : null }, each))));
    const heads = attention.map((row, n) => {
      const t = row.indexOf(Math.max(...row));
      return h("tr", {},
        h("th", { scope: "row" }, h("button", { class: "link", "aria-pressed": n === this.head, "aria-label": `Head ${n + 1}`, onclick: () => { this.choose(this.layer, n); this.attention.querySelector("[aria-pressed='true']")?.focus(); } }, `${n + 1}`)),
        h("td", {}, visible(tokens[t].piece)), h("td", {}, bar(row[t], percent(row[t]))));
    });
    const open = this.attention.querySelector("details[open]") !== null;
    this.attention.replaceChildren(
      h("p", { class: "muted small" }, "When it predicted this token, standing on ", visible(tokens.at(-1).piece), ":"),
      scrolled("Text before, shaded by attention", h("p", { class: "shades" }, shades), "short"),
      h("table", { class: "wide" },
        h("caption", { class: "hidden" }, "The tokens it took most from."), columns(), h("tbody", {}, order.slice(0, 5).map(rowOf))),
      h("details", { open },
        h("summary", {}, `All ${number(weights.length)} weights, and every head`),
        h("h4", {}, "Where each head looked most"),
        scrolled("Heads", h("table", { class: "wide" },
          h("caption", { class: "hidden" }, "The token that each head of this layer took most from."),
          h("thead", {}, h("tr", {}, ["Head", "Token", "Weight"].map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, heads))),
        h("h4", {}, "All weights"),
        scrolled("All weights", h("table", { class: "wide" },
          h("caption", { class: "hidden" }, "Attention weight of every token."), columns(), h("tbody", {}, order.map(([, t]) => t).sort((a, b) => a - b).map((t) => rowOf([weights[t], t])))))));
  }

  /** Up and down through the alternatives; Escape goes back. */
  moved(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.calls.back();
    }
    if (!event.target.classList.contains("alternative")) return;
    const buttons = [...this.alternatives.querySelectorAll("button:enabled")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      buttons.at((buttons.indexOf(event.target) + step) % buttons.length).focus();
    }
  }

  enter() {
    this.alternatives.querySelector("button:enabled")?.focus();
  }
}

/** A region that scrolls, and can be scrolled by the keyboard. */
function scrolled(label, content, kind = "") {
  return h("div", { class: `scrolled ${kind}`, role: "region", "aria-label": label, tabindex: 0 }, content);
}
