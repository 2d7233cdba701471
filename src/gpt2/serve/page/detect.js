// Was a text generated? The verdict with its error rate, the parts, and every token coloured by rank.

import { postJson } from "./api.js";
import { $, coloured, h, number, percent, visible } from "./dom.js";
import { CLASSES, characters, classOf, nameOf } from "./reading.js";

const WORDS = {
  generated: "Generated",
  human: "Not by this model",
  inconclusive: "Inconclusive",
  uncalibrated: "No verdict",
};
const RATES = [0.05, 0.01, 0.001];

/** Build the panel. */
export function buildDetect({ model, fail }) {
  let running = null;
  const text = h("textarea", { id: "detect-text", rows: 12, spellcheck: "false", placeholder: "Paste a text…", oninput: () => update() });
  const rate = h("select", { id: "detect-rate" }, RATES.map((each) => h("option", { value: each, selected: each === 0.01 }, percent(each))));
  const run = h("button", { class: "primary", id: "detect-run", onclick: () => (running ? running.abort() : go()) });
  const said = h("div", { class: "result", id: "detect-said", role: "status", hidden: true });
  const shown = h("section", { class: "column", "aria-labelledby": "detect-shown-title", hidden: true });

  $("view-detect").append(
    h("div", { class: "column" },
      h("div", { class: "head" }, h("h2", {}, "Was this generated?")),
      h("div", { class: "field" }, h("label", { for: "detect-text" }, "Text, a paragraph or more"), text),
      h("div", { class: "pair" }, h("div", {}, h("label", { for: "detect-rate" }, "Human text called generated, at most"), rate)),
      h("div", { class: "actions" }, run), said,
      h("p", { class: "muted small" }, "It compares with what this model would write. It does not recognise paraphrased or edited text, other models' text or short texts, and it may misjudge writers unlike those of the calibration. No verdict is a reason to accuse anyone.")),
    shown);

  function update() {
    run.disabled = !running && !text.value.trim();
    run.textContent = running ? "Stop" : "Judge";
  }

  async function go() {
    running = new AbortController();
    const { signal } = running;
    update();
    said.hidden = false;
    said.replaceChildren(h("p", { class: "muted" }, "Reading…"));
    shown.hidden = true;
    try {
      const found = await postJson("v1/detect", { model: model(), text: text.value, false_positive_rate: Number(rate.value) }, signal);
      said.replaceChildren(...verdict(found));
      shown.replaceChildren(...reading(found));
      shown.hidden = false;
    } catch (error) {
      said.hidden = true;
      if (!signal.aborted) fail(error);
    } finally {
      running = null;
      update();
    }
  }
  update();
}

function verdict(found) {
  const { calibration, n_normalised: n } = found;
  return [
    h("p", { class: "answer", "data-verdict": found.verdict }, WORDS[found.verdict]),
    h("p", {}, `${found.reason[0].toUpperCase()}${found.reason.slice(1)}.`),
    found.p_value !== null && h("p", { class: "muted small" }, `p = ${found.p_value.toPrecision(2)}: of texts that people wrote, a share as large as this looks at least as much like the model's own.`),
    n > 0 && h("p", { class: "small" }, `${number(n)} look-alike or invisible characters were put back before reading.`),
    calibration && h("p", { class: "muted small" }, `Compared with ${number(calibration.human_texts)} human texts: ${calibration.human}.`),
  ].filter(Boolean);
}

function reading(found) {
  const ends = characters(found.text, found.byte_ends);
  const starts = [0, ...ends.slice(0, -1)];
  const counts = CLASSES.map((each) => found.ranks.filter((rank) => classOf(rank) === each).length);
  const many = found.parts.length > 1;
  let first = 0;
  const parts = found.parts.map((part, i) => {
    const tokens = Array.from({ length: part.n_tokens }, (_, k) => first + k);
    first += part.n_tokens;
    const spans = tokens.map((t) => {
      const token = { piece: found.pieces[found.token_ids[t]], rank: found.ranks[t], probability: Math.exp(found.token_logprobs[t]) };
      return coloured(found.text.slice(starts[t], ends[t]), { class: `t ${classOf(token.rank).name}`, title: nameOf(token) });
    });
    return h("div", { class: "part", "data-verdict": part.verdict, role: "group", "aria-label": many ? `Part ${i + 1}: ${WORDS[part.verdict]}` : "The text" },
      many && h("p", { class: "tag" }, `${i + 1} · ${WORDS[part.verdict]}`),
      h("p", { class: "shades" }, spans));
  });
  const least = found.token_ids.map((_, t) => t).sort((a, b) => found.token_logprobs[a] - found.token_logprobs[b]).slice(0, 5);
  return [
    h("div", { class: "head" }, h("h2", { id: "detect-shown-title" }, "How each word reads to the model")),
    h("ul", { class: "legend" }, CLASSES.map((each, i) =>
      h("li", {},
        h("span", { class: `t swatch ${each.name}`, "aria-hidden": "true" }, "word"),
        h("span", { class: "label" }, each.label),
        h("span", { class: "count" }, `${number(counts[i])} · ${percent(counts[i] / found.ranks.length)}`)))),
    ...parts,
    h("h3", {}, many ? "Part by part" : "In numbers"),
    h("div", { class: "scrolled", role: "region", "aria-label": "Statistics", tabindex: 0 }, table(found.parts)),
    h("h3", {}, "What the model expected least"),
    h("p", {}, least.flatMap((t, i) => [i > 0 && ", ", visible(found.pieces[found.token_ids[t]]), ` (rank ${number(found.ranks[t] + 1)})`])),
  ];
}

function table(parts) {
  const columns = [
    ["Part", (part, i) => `${i + 1}`],
    ["Verdict", (part) => WORDS[part.verdict]],
    ["Tokens", (part) => number(part.n_tokens)],
    ["p", (part) => (part.p_human === null ? "–" : part.p_human.toPrecision(2))],
    ["Curvature", (part) => number(part.statistics.curvature, 2)],
    ["Log-probability", (part) => number(part.statistics.mean_logprob, 2)],
    ["Log-rank", (part) => number(part.statistics.mean_log_rank, 2)],
    ["Entropy", (part) => number(part.statistics.mean_entropy, 2)],
  ];
  return h("table", { class: "wide" },
    h("caption", { class: "hidden" }, "Verdict and statistics of each part."),
    h("thead", {}, h("tr", {}, columns.map(([name], i) => h("th", { scope: "col", class: i > 1 ? "num" : null }, name)))),
    h("tbody", {}, parts.map((part, i) => h("tr", {}, columns.map(([, show], k) => (k ? h("td", { class: k > 1 ? "num" : null }, show(part, i)) : h("th", { scope: "row" }, show(part, i))))))));
}
