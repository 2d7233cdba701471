// GPT-2's zero-shot tasks: the form, the exact prompt, and the part of the continuation that counts.

import { complete, postJson } from "./api.js";
import { $, h, later } from "./dom.js";

const TASKS = {
  summarize: { label: "Summarise", text: "Article", rows: 9, act: "Summarise", about: "The article, then “TL;DR:”. Of what follows, three sentences count." },
  translate: { label: "Translate", text: "Sentence", rows: 3, act: "Translate", about: "Pairs of sentences as examples, then the sentence and “=”. The first sentence of the line counts." },
  answer: { label: "Answer", text: "Question", rows: 2, act: "Answer", about: "A passage and a question, or examples and a question; then “A:”. That line counts." },
};

/** Build the panel. */
export function buildTasks({ model, open, fail }) {
  let task = "summarize";
  let running = null;
  let asked = null;
  let question = null; // the newest sent to the server: answers to older ones are ignored
  let shown = null; // the run whose answer is shown
  const kept = {};

  const choose = h("div", { class: "switch", role: "group", "aria-label": "Task" },
    Object.entries(TASKS).map(([name, { label }]) => h("button", { "data-task": name, onclick: () => show(name) }, label)));
  const about = h("p", { class: "muted" });
  const textLabel = h("label", { for: "task-text" });
  const text = h("textarea", { id: "task-text", spellcheck: "false", oninput: () => askLater() });
  const contextField = h("div", { class: "field" },
    h("label", { for: "task-context" }, "Passage, if there is one"),
    h("textarea", { id: "task-context", rows: 6, spellcheck: "false", oninput: () => askLater() }));
  const source = h("select", { id: "task-source", onchange: () => ask() });
  const target = h("select", { id: "task-target", onchange: () => ask() });
  const languages = h("div", { class: "pair" },
    h("div", {}, h("label", { for: "task-source" }, "From"), source),
    h("div", {}, h("label", { for: "task-target" }, "To"), target));
  for (const name of ["english", "french", "german", "spanish"]) {
    source.append(h("option", { value: name, selected: name === "french" }, name[0].toUpperCase() + name.slice(1)));
    target.append(h("option", { value: name, selected: name === "english" }, name[0].toUpperCase() + name.slice(1)));
  }
  const run = h("button", { class: "primary", id: "task-run", onclick: () => (running ? running.abort() : go()) });
  const write = h("button", { id: "task-open", onclick: () => asked && open(asked.prompt) }, "Open the prompt in Write");
  const prompt = h("pre", { id: "task-prompt", class: "prompt", tabindex: 0, role: "region", "aria-label": "The prompt" });
  const how = h("p", { class: "muted small", id: "task-how" });
  const answer = h("p", { class: "answer", id: "task-answer" });
  const whole = h("pre", { class: "prompt", id: "task-whole", tabindex: 0, role: "region", "aria-label": "Everything the model wrote" });
  const result = h("section", { class: "result", "aria-labelledby": "task-result-title", "aria-live": "polite", hidden: true },
    h("h2", { id: "task-result-title" }, "Answer"), answer,
    h("details", {}, h("summary", {}, "Everything it wrote"), whole));

  $("view-tasks").append(
    h("div", { class: "column" },
      h("div", { class: "head" }, h("h2", {}, "Tasks"), choose), about,
      h("div", { class: "field" }, textLabel, text), contextField, languages,
      h("div", { class: "actions" }, run, write), result,
      h("p", { class: "muted small" }, "GPT-2 was trained for none of these: the paper found prompts that make it try. Expect little of a small model.")),
    h("section", { class: "column", "aria-labelledby": "task-prompt-title" },
      h("div", { class: "head" }, h("h2", { id: "task-prompt-title" }, "What the model is asked")), how, prompt));

  const body = () => ({
    model: model(),
    text: text.value,
    ...(task === "translate" && { source: source.value, target: target.value }),
    ...(task === "answer" && contextField.lastChild.value.trim() && { context: contextField.lastChild.value }),
  });

  /** Show the exact prompt; returns false if another was asked for before it came. */
  async function ask() {
    askLater.cancel();
    asked = null;
    const mine = question = {};
    if (text.value.trim()) {
      try {
        const answered = await postJson(`v1/tasks/${task}`, body());
        if (question !== mine) return false;
        asked = answered;
      } catch (error) {
        if (question !== mine) return false;
        prompt.textContent = "";
        how.textContent = error.message;
        update();
        return true;
      }
    }
    prompt.textContent = asked?.prompt ?? "";
    const { sampling } = asked ?? {};
    how.textContent = asked
      ? [sampling.temperature === 0 ? "The likeliest token each time" : `Sampled from the ${sampling.top_k} likeliest`, `at most ${sampling.max_tokens} tokens`, sampling.stop.length ? "to the end of the line" : null, asked.left_out].filter(Boolean).join("; ")
      : "Write something to see the exact prompt here.";
    update();
    return true;
  }
  const askLater = later(300, ask);

  function update() {
    run.disabled = write.disabled = !asked;
    if (running) run.disabled = false;
    run.textContent = running ? "Stop" : TASKS[task].act;
  }

  function show(name) {
    running?.abort();
    shown = null;
    kept[task] = text.value;
    task = name;
    text.value = kept[name] ?? "";
    for (const button of choose.children) button.setAttribute("aria-pressed", button.dataset.task === name);
    about.textContent = TASKS[name].about;
    textLabel.textContent = TASKS[name].text;
    text.rows = TASKS[name].rows;
    contextField.hidden = name !== "answer";
    languages.hidden = name !== "translate";
    result.hidden = true;
    ask();
  }

  async function go() {
    if (!(await ask()) || !asked) return;
    const mine = shown = running = new AbortController();
    const { signal } = mine;
    const request = body();
    update();
    result.hidden = false;
    answer.textContent = "…";
    whole.textContent = "";
    let written = "";
    try {
      for await (const choice of complete({ model: request.model, prompt: asked.prompt, ...asked.sampling }, signal)) {
        written += choice.text ?? "";
        if (shown === mine) whole.textContent = written;
      }
    } catch (error) {
      if (!signal.aborted) fail(error);
    } finally {
      if (running === mine) running = null;
      update();
    }
    if (shown !== mine) return;
    try {
      const read = await postJson(`v1/tasks/${task}`, { ...request, continuation: written });
      if (shown === mine) answer.textContent = read.answer || "(nothing)";
    } catch (error) {
      if (shown === mine) fail(error);
    }
  }
  show(task);
}
