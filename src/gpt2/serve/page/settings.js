// The sampling settings: one list that makes the controls, the requests and the code to copy.

import { h, $, later } from "./dom.js";

// `wire` is the name in a request, if it differs; `off` the value that changes nothing.
export const SETTINGS = [
  { name: "max_tokens", label: "Length", help: "Generate at most this many tokens.", least: 1, most: 400, limit: 4096, step: 1, start: 60, main: true },
  { name: "temperature", label: "Temperature", help: "Below 1 prefers likely tokens, above 1 unlikely ones; 0 always takes the likeliest.", least: 0, most: 2, step: 0.05, start: 0.8, off: 1, main: true },
  { name: "top_k", label: "Top-k", help: "Keep the k most likely tokens; 0 keeps all.", least: 0, most: 200, limit: 50257, step: 1, start: 40, off: 0, main: true },
  { name: "top_p", label: "Top-p", help: "Keep the fewest top tokens whose probabilities sum to at least this; 1 keeps all.", least: 0.05, most: 1, step: 0.01, start: 1, off: 1, main: true },
  { name: "n", label: "Continuations", help: "More than one are shown side by side.", least: 1, most: 8, limit: 16, step: 1, start: 1, off: 1, main: true },
  { name: "min_p", label: "Min-p", help: "Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.", least: 0, most: 1, step: 0.01, start: 0, off: 0 },
  { name: "typical_p", label: "Typical-p", help: "Keep the fewest tokens nearest the expected surprise whose probabilities sum to at least this; 1 keeps all.", least: 0.05, most: 1, step: 0.01, start: 1, off: 1 },
  { name: "repetition_penalty", label: "Repetition penalty", help: "Make tokens already in the text less likely; 1 is off.", least: 1, most: 2, limit: 10, step: 0.05, start: 1, off: 1 },
  { name: "presence_penalty", label: "Presence penalty", help: "Subtract from tokens already generated; 0 is off.", least: -2, most: 2, step: 0.1, start: 0, off: 0 },
  { name: "frequency_penalty", label: "Frequency penalty", help: "Subtract for each time a token was already generated; 0 is off.", least: -2, most: 2, step: 0.1, start: 0, off: 0 },
  { name: "no_repeat_ngram", label: "No repeated n-gram", help: "Never repeat a sequence of this many tokens; 0 is off.", least: 0, most: 10, limit: 100, step: 1, start: 0, off: 0 },
];

const PRESETS = {
  Balanced: { temperature: 0.8, top_k: 40 },
  "The model itself": { temperature: 1, top_k: 0 },
  "The paper's samples": { temperature: 1, top_k: 40 },
  "Nucleus 0.95": { temperature: 1, top_k: 0, top_p: 0.95 },
  "Always the likeliest": { temperature: 0, top_k: 0 },
};

const KEY = "gpt2-settings";
const values = { ...Object.fromEntries(SETTINGS.map((each) => [each.name, each.start])), seed: "", stop: "" };
const fields = {};

/** Continue a document that is longer than the context from its end. */
export const FROM_ITS_END = { truncate_prompt_tokens: -1 };

/** The fields of a request: only what differs from the server's defaults. */
export function requestSettings() {
  const request = { max_tokens: values.max_tokens };
  for (const { name, off } of SETTINGS) {
    if (off !== undefined && values[name] !== off) request[name] = values[name];
  }
  if (values.seed !== "") request.seed = Number(values.seed);
  const stops = values.stop.split("\n").filter(Boolean).map((stop) => stop.replaceAll("\\n", "\n"));
  if (stops.length) request.stop = stops;
  return request;
}

/** The settings that shape the distribution at one place. */
export function filterSettings() {
  const { max_tokens, n, seed, stop, ...filters } = requestSettings();
  return filters;
}

export const setting = (name) => values[name];

function clamp({ least, most, limit = most, step }, value) {
  const inside = Math.min(limit, Math.max(least, value));
  return step === 1 ? Math.round(inside) : Number(inside.toFixed(3));
}

/** Build the form; calls `changed` when a value changes. */
export function buildSettings(changed) {
  try {
    for (const [name, value] of Object.entries(JSON.parse(localStorage.getItem(KEY)) ?? {})) {
      const known = SETTINGS.find((each) => each.name === name);
      if (known && Number.isFinite(value)) values[name] = clamp(known, value);
      else if ((name === "stop" && typeof value === "string") || (name === "seed" && /^\d*$/.test(value))) values[name] = value;
    }
  } catch {
    // nothing was kept, or storage is forbidden
  }
  const keep = later(200, () => {
    try {
      localStorage.setItem(KEY, JSON.stringify(values));
    } catch {
      // storage may be forbidden
    }
  });
  const set = (name, value) => {
    values[name] = value;
    fields[name]?.(value);
    $("preset").value = presetOf(values);
    keep();
    changed();
  };
  const more = h("details", { class: "more" }, h("summary", {}, "More settings"));
  const form = $("settings");
  form.append(presets(set));
  for (const each of SETTINGS) (each.main ? form : more).append(row(each, set));
  form.append(more);
  more.append(
    h("div", { class: "row" },
      h("label", { for: "set-seed" }, "Seed"),
      h("input", { id: "set-seed", class: "wide", inputmode: "numeric", pattern: "[0-9]*", placeholder: "another each time", "aria-describedby": "help-seed", value: values.seed,
        oninput: (event) => /^\d{0,19}$/.test(event.target.value) && set("seed", event.target.value) }),
      h("p", { class: "help", id: "help-seed" }, "The same seed gives the same text.")),
    h("div", { class: "row" },
      h("label", { for: "set-stop" }, "Stop before"),
      h("textarea", { id: "set-stop", rows: 2, spellcheck: "false", "aria-describedby": "help-stop", oninput: (event) => set("stop", event.target.value) }, values.stop),
      h("p", { class: "help", id: "help-stop" }, "One text a line; \\n in it is the end of a line.")),
  );
  $("preset").value = presetOf(values);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("keydown", (event) => event.key === "Escape" && form.classList.add("silent"));
  for (const type of ["focusin", "pointerover"]) form.addEventListener(type, () => form.classList.remove("silent"));
}

/** A preset's value for a setting; undefined if it leaves the setting alone. */
const presetValue = (name, { name: each, start, off }) => (each === "n" || off === undefined ? undefined : PRESETS[name][each] ?? off ?? start);

/** The preset that the settings match; "" if there is none. */
const presetOf = (values) => Object.keys(PRESETS).find((name) => SETTINGS.every((each) => [undefined, values[each.name]].includes(presetValue(name, each)))) ?? "";

function presets(set) {
  const select = h("select", { id: "preset", onchange: () => {
    const chosen = select.value; // setting each value updates the select
    if (!chosen) return;
    for (const each of SETTINGS) {
      const value = presetValue(chosen, each);
      if (value !== undefined) set(each.name, value);
    }
  } }, h("option", { value: "" }, "Choose…"), Object.keys(PRESETS).map((name) => h("option", {}, name)));
  return h("div", { class: "row preset" }, h("label", { for: "preset" }, "Preset"), select);
}

function row(each, set) {
  const { name, label, help, least, most, limit = most, step } = each;
  const slider = h("input", { type: "range", id: `slide-${name}`, min: least, max: most, step, "aria-label": label, "aria-describedby": `help-${name}` });
  const field = h("input", { type: "number", id: `set-${name}`, min: least, max: limit, step: step === 1 ? 1 : "any", "aria-describedby": `help-${name}` });
  const show = (value) => {
    slider.value = value;
    slider.style.setProperty("--at", Math.min(1, (value - least) / (most - least)));
    if (Number(field.value) !== value || field.value === "") field.value = value;
  };
  slider.addEventListener("input", () => set(name, clamp(each, Number(slider.value))));
  field.addEventListener("input", () => {
    const value = Number(field.value);
    if (field.value !== "" && Number.isFinite(value) && value >= least && value <= limit) set(name, clamp(each, value));
  });
  field.addEventListener("change", () => set(name, field.value === "" ? values[name] : clamp(each, Number(field.value))));
  fields[name] = show;
  show(values[name]);
  return h("div", { class: "row" }, h("label", { for: `set-${name}` }, label), field, slider, h("p", { class: "help", id: `help-${name}` }, help));
}
