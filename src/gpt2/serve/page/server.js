// The state of the server: its models and its counters.

import { get, readMetrics } from "./api.js";
import { $, bar, h, number, percent } from "./dom.js";

const COUNTERS = [
  ["Requests running", "gpt2_num_requests_running"],
  ["Requests waiting", "gpt2_num_requests_waiting"],
  ["Places taken", "gpt2_kv_cache_usage_perc", (value) => bar(value, percent(value))],
  ["Memory of keys and values", "gpt2_kv_cache_bytes", (value) => `${number(value / 1e6, 1)} MB`],
  ["Tokens generated", "gpt2_generation_tokens_total"],
  ["Prompt tokens read", "gpt2_prompt_tokens_total"],
  ["Prompt tokens taken from the cache", "gpt2_prefix_cache_hits_total"],
  ["Requests abandoned by their client", "gpt2_request_cancelled_total"],
  ["Requests that failed", "gpt2_request_failed_total"],
];

/** Build the panel; returns the functions to call when it is shown and hidden. */
export function buildServer({ model }) {
  let timer = 0;
  let before = null;
  const models = h("div", {});
  const counters = h("div", {});
  const note = h("p", { class: "muted small" }, "Read every two seconds from /metrics, which Prometheus reads too.");
  $("view-server").append(h("div", { class: "column" }, h("h2", {}, "Model"), models), h("div", { class: "column" }, h("h2", {}, "Now"), counters, note));

  async function refresh() {
    showModel();
    try {
      const now = { at: performance.now(), values: readMetrics(await (await get("metrics")).text(), model().id) };
      const rows = COUNTERS.filter(([, name]) => name in now.values).map(([label, name, show = number]) => [label, show(now.values[name])]);
      if (before) {
        const seconds = (now.at - before.at) / 1000;
        const made = (now.values.gpt2_generation_tokens_total ?? 0) - (before.values.gpt2_generation_tokens_total ?? 0);
        rows.splice(5, 0, ["Tokens a second", number(Math.max(0, made) / seconds, 1)]);
      }
      before = now;
      counters.replaceChildren(facts("What the server is doing now", rows));
    } catch (error) {
      counters.replaceChildren(h("p", { class: "muted" }, `The counters cannot be read: ${error.message}`));
    }
  }

  function showModel() {
    const { id, max_model_len: context, meta = {} } = model();
    if (!id) return;
    models.replaceChildren(facts("The model", [
      ["Name", id],
      ["Parameters", meta.n_params && number(meta.n_params)],
      ["Layers", meta.n_layer],
      ["Heads of a layer", meta.n_head],
      ["Width", meta.n_embd],
      ["Context", context && `${number(context)} tokens`],
      ["Vocabulary", meta.n_vocab && `${number(meta.n_vocab)} tokens`],
      ["Weights", meta.weights],
      ["Computed by", meta.backend && `${meta.backend} on ${meta.device}`],
    ].filter(([, value]) => value)));
  }

  return {
    enter() {
      before = null;
      refresh();
      timer = setInterval(refresh, 2000);
    },
    leave() {
      clearInterval(timer);
    },
  };
}

function facts(caption, rows) {
  return h("table", { class: "wide facts" }, h("caption", { class: "hidden" }, caption),
    h("tbody", {}, rows.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, `${value?.nodeType ? "" : value}`, value?.nodeType ? value : null)))));
}
