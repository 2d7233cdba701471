// How likely the model finds the text: shares by rank, and two histograms; each with its numbers in a table.

import { $, h, number, percent, s } from "./dom.js";
import { CLASSES, classOf } from "./reading.js";

/** Show a reading: facts, legend with counts, histograms. */
export function showMeasures(reading) {
  const scored = reading.tokens.filter(({ rank }) => rank !== null);
  const n = reading.tokens.length;
  const facts = [`${number(n)} token${n === 1 ? "" : "s"}`];
  if (reading.limit && n > reading.limit) facts.push(`more than the context of ${number(reading.limit)}`);
  if (reading.perplexity !== null && reading.perplexity !== undefined) {
    facts.push(`perplexity ${number(reading.perplexity, 1)}`, `${number(reading.bitsPerByte, 2)} bits per byte`);
  }
  $("facts").textContent = n ? facts.join(" · ") : "Write something, and every token is ranked by how well the model saw it coming.";

  const counts = CLASSES.map((each) => scored.filter(({ rank }) => classOf(rank) === each).length);
  $("share").replaceChildren(
    ...CLASSES.map((each, i) => h("span", { class: each.name, style: { "flex-grow": counts[i] } })),
  );
  $("share").hidden = !scored.length;
  $("legend").replaceChildren(
    ...CLASSES.map((each, i) =>
      h("li", {},
        h("span", { class: `t swatch ${each.name}`, "aria-hidden": "true" }, "word"),
        h("span", { class: "label" }, each.label),
        h("span", { class: "count" }, `${number(counts[i])}${scored.length ? ` · ${percent(counts[i] / scored.length)}` : ""}`))),
  );
  $("charts").hidden = scored.length < 2;
  if (scored.length < 2) return;
  $("charts").replaceChildren(
    histogram("Probability of each token", scored.map(({ probability }) => probability), tenths()),
    histogram("Uncertainty before each token, in bits", scored.map(({ bits }) => bits), bitBins()),
  );
}

const tenths = () => Array.from({ length: 10 }, (_, i) => ({ from: i / 10, to: (i + 1) / 10, label: `${i * 10}–${i * 10 + 10} %`, tick: i % 5 ? "" : `${i * 10} %` }));
const bitBins = () => Array.from({ length: 8 }, (_, i) => ({ from: i * 2, to: i === 7 ? Infinity : i * 2 + 2, label: i === 7 ? "14 and more" : `${i * 2}–${i * 2 + 2}`, tick: i % 2 ? "" : `${i * 2}` }));

function histogram(title, values, bins) {
  const counts = bins.map(({ from, to }, i) => values.filter((value) => value >= from && (value < to || (i === bins.length - 1 && value <= to))).length);
  const most = Math.max(...counts, 1);
  const [width, height, foot] = [280, 84, 16];
  const step = width / bins.length;
  const columns = counts.map((count, i) => {
    const tall = count ? Math.max(2, (count / most) * (height - foot - 4)) : 0;
    return s("rect", { x: i * step + 1.5, y: height - foot - tall, width: step - 3, height: tall, rx: 1.5 });
  });
  const ticks = bins.map(({ tick }, i) => tick && s("text", { x: i * step + 1.5, y: height - 3 }, tick));
  const most_ = counts.indexOf(Math.max(...counts));
  return h("figure", {},
    h("figcaption", {}, title),
    s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: most often ${bins[most_].label}, ${counts[most_]} of ${values.length} tokens. The table has all numbers.` },
      s("line", { x1: 0, x2: width, y1: height - foot, y2: height - foot }), columns, ticks),
    h("details", {},
      h("summary", {}, "As a table", h("span", { class: "hidden" }, `: ${title}`)),
      h("table", {},
        h("caption", { class: "hidden" }, title),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "From–to"), h("th", { scope: "col", class: "num" }, "Tokens"))),
        h("tbody", {}, bins.map(({ label }, i) => h("tr", {}, h("th", { scope: "row" }, label), h("td", { class: "num" }, number(counts[i]))))))));
}
