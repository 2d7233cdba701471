// The request as code: for a shell, for Python, for the command line.

import { $, h } from "./dom.js";
import { FROM_ITS_END, requestSettings } from "./settings.js";

const FLAGS = { max_tokens: "--max-tokens", top_k: "--top-k", top_p: "--top-p", min_p: "--min-p", typical_p: "--typical-p", repetition_penalty: "--repetition-penalty", presence_penalty: "--presence-penalty", frequency_penalty: "--frequency-penalty", no_repeat_ngram: "--no-repeat-ngram" };
const OPENAI = new Set(["max_tokens", "temperature", "top_p", "n", "seed", "stop", "presence_penalty", "frequency_penalty"]);

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) => (Array.isArray(value) ? `[${value.map(python).join(", ")}]` : JSON.stringify(value));
const given = (settings) => Object.entries(settings).map(([name, value]) => `${name}=${python(value)}`);

const FORMS = {
  curl: (model, prompt, settings) =>
    `curl ${location.origin}/v1/completions \\\n  -H 'content-type: application/json' \\\n  -d ${shell(JSON.stringify({ model, prompt, ...FROM_ITS_END, ...settings }, null, 1))}`,
  Python: (model, prompt, settings) =>
    `import gpt2\n\nmodel = gpt2.load(${python(model)})\ncompletion = model.generate(\n    ${[python(prompt), "truncate_prompt=True", ...given(settings)].join(",\n    ")},\n)\nprint(completion.text)`,
  "openai client": (model, prompt, settings) => {
    const known = Object.fromEntries(Object.entries(settings).filter(([name]) => OPENAI.has(name)));
    const extra = Object.fromEntries(Object.entries({ ...FROM_ITS_END, ...settings }).filter(([name]) => !OPENAI.has(name)));
    const lines = [`model=${python(model)}`, `prompt=${python(prompt)}`, ...given(known), `extra_body=${JSON.stringify(extra)}`];
    return `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="none")\ncompletion = client.completions.create(\n    ${lines.join(",\n    ")},\n)\nprint(completion.choices[0].text)`;
  },
  Command: (model, prompt, settings) => {
    const flags = Object.entries(settings).flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((each) => `${FLAGS[name] ?? `--${name}`} ${typeof each === "string" ? shell(each) : each}`));
    return `gpt2 generate ${[`--model ${shell(model)}`, "--truncate-prompt", ...flags, `-- ${shell(prompt)}`].join(" \\\n  ")}`;
  },
};

/** Build the dialog; `context` returns the model and the prompt. */
export function buildSnippets(context) {
  const dialog = $("snippets");
  const forms = $("snippets-forms");
  let chosen = "curl";
  const show = (form) => {
    chosen = form;
    const { model, prompt } = context();
    for (const button of forms.children) button.setAttribute("aria-pressed", button.textContent === form);
    $("snippets-code").textContent = FORMS[form](model, prompt, requestSettings());
    $("snippets-done").textContent = "";
  };
  forms.append(...Object.keys(FORMS).map((form) => h("button", { onclick: () => show(form) }, form)));
  $("copy-as").addEventListener("click", () => {
    show(chosen);
    dialog.showModal();
  });
  $("snippets-close").addEventListener("click", () => dialog.close());
  $("snippets-copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("snippets-code").textContent);
      $("snippets-done").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren($("snippets-code"));
      $("snippets-done").textContent = "Selected: press Control or Command with C.";
    }
  });
}
