// The page: its tabs, the model, the global keyboard shortcuts, and the wiring between the panels.

import { get } from "./api.js";
import { showMeasures } from "./charts.js";
import { buildDetect } from "./detect.js";
import { $, h, later } from "./dom.js";
import { Editor } from "./editor.js";
import { Inspector } from "./inspector.js";
import { buildServer } from "./server.js";
import { buildSettings } from "./settings.js";
import { buildSnippets } from "./snippets.js";
import { buildTasks } from "./tasks.js";
import { Writer } from "./writing.js";

let models = [];
const model = () => models.find(({ id }) => id === $("model").value) ?? models[0] ?? {};

// Messages for readers where the server's are for programmers: by limit, given its number.
const BUSY = () => "The server is busy with others. Try again in a moment.";
const WORDS = {
  score_tokens: (most) => most && `The text is too long to be read at once: the limit is ${most} tokens, and a token is a word or a part of one. Shorten it.`,
  body_bytes: (most) => most && `The text is too long to be sent: the limit is ${most} bytes, and a letter takes one or a few. Shorten it.`,
  queue_requests: BUSY,
  queue_tokens: BUSY,
  queue_seconds: BUSY,
};
let failure = null; // what the alert is about

function fail(error) {
  failure = error;
  const most = /the limit \w+ is (\d[\d,]*)\b/.exec(error.message)?.[1];
  $("alert").hidden = false;
  $("alert").firstElementChild.textContent = error instanceof TypeError ? "The server cannot be reached. Is it still running?" : WORDS[error.code]?.(most) ?? error.message;
  if (error instanceof TypeError) setState("down", "Unreachable");
}

/** Clear an alert about a text that has changed, or about a server that answers again. */
function takeBack(reached = false) {
  if (reached === failure instanceof TypeError) $("alert").hidden = true;
}
document.addEventListener("input", () => takeBack());
$("alert-close").addEventListener("click", () => {
  $("alert").hidden = true;
  editor.focusBack();
});

// Writing and looking

const inspector = new Inspector({ model, fail, back: () => (writer.running ? writer.stop() : editor.focusBack()), choose: (position, piece) => chooseAlternative(position, piece) });
const editor = new Editor({
  model: () => model().id,
  focused: (position) => editor.reading && inspector.show(editor.reading, position),
  slow: () => ($("facts").textContent = "The model reads the text…"),
  analysed: (reading) => showMeasures(reading),
  changed: () => {
    takeBack();
    writer?.update();
    $("starts").hidden = editor.text !== "";
  },
  enter: () => inspector.enter(),
  fail,
});
let writer = null;
writer = new Writer(editor, { model: () => model().id, fail });
const lookAgain = later(250, () => editor.reading && editor.position !== null && inspector.show(editor.reading, editor.position));
buildSettings(() => lookAgain());
buildSnippets(() => ({ model: model().id ?? "gpt2-mini", prompt: editor.text.slice(0, editor.caret) }));

/** Replace a token and generate on from there; what came after it is dropped (undo brings it back). */
function chooseAlternative(position, piece) {
  if (writer.running) return;
  const { reading } = editor;
  const start = position === reading.ids.length ? reading.text.length : reading.starts[position];
  const before = editor.text.slice(0, start) + piece;
  editor.put(before, before.length, { record: true });
  editor.showTokens(false);
  setView("text");
  writer.generate(before.length);
}

function setView(view) {
  $("as-text").setAttribute("aria-pressed", view === "text");
  $("as-tokens").setAttribute("aria-pressed", view === "tokens");
}
for (const view of ["text", "tokens"]) {
  $(`as-${view}`).addEventListener("click", () => {
    setView(view);
    editor.showTokens(view === "tokens");
  });
}

document.addEventListener("keydown", (event) => {
  if ($("snippets").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("view-write").hidden) {
    event.preventDefault();
    if (!writer.running) writer.generate();
  } else if (event.key === "Escape") {
    if (writer.running) writer.stop();
    else if (!$("tokens").hidden) $("as-text").click();
  }
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) $("generate-key").textContent = "⌘ ↵";

// Tabs

buildTasks({ model: () => model().id, fail, open: (prompt) => {
  select($("tab-write"));
  editor.put(prompt, prompt.length, { record: true });
  $("text").focus();
} });
buildDetect({ model: () => model().id, fail });
const server = buildServer({ model });
const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  server.leave();
  if (tab.id === "tab-server") server.enter();
  history.replaceState(null, "", tab.id === "tab-write" ? location.pathname : `#${tab.id.slice(4)}`);
}
for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = event.key === "Home" ? tabs[0] : event.key === "End" ? tabs.at(-1) : step && tabs.at((tabs.indexOf(tab) + step) % tabs.length);
    if (!next) return;
    event.preventDefault();
    select(next);
    next.focus();
  });
}

// Theme

const THEMES = ["system", "light", "dark"];
let theme = "system";
try {
  theme = localStorage.getItem("gpt2-theme") ?? theme;
} catch {
  // storage may be forbidden
}
function setTheme(name) {
  theme = THEMES.includes(name) ? name : "system";
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
}
$("theme").addEventListener("click", () => {
  setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  try {
    localStorage.setItem("gpt2-theme", theme);
  } catch {
    // the choice lasts until the page is closed
  }
});
setTheme(theme);

// The server

function setState(state, text) {
  $("state").dataset.state = state;
  $("state-text").textContent = text;
}

async function checkState() {
  try {
    const response = await fetch("health/ready", { cache: "no-store" });
    takeBack(true);
    if (response.ok) setState("ready", "Ready");
    else setState("wait", "Not ready");
    return response.ok;
  } catch {
    setState("down", "Unreachable");
    return false;
  }
}

async function connect() {
  try {
    models = (await (await get("v1/models")).json()).data;
  } catch (error) {
    fail(error);
    setTimeout(connect, 3000);
    return;
  }
  $("alert").hidden = true;
  $("model").replaceChildren(...models.map(({ id }) => h("option", {}, id)));
  inspector.fit(model().meta);
  editor.analyse();
  checkState();
}
$("model").addEventListener("change", () => {
  inspector.fit(model().meta);
  editor.analyse();
});
setInterval(() => !document.hidden && checkState(), 15000);

// A first text for an empty page

const STARTS = [
  "Once upon a time, there was a little",
  "The old lighthouse keeper opened the door and",
  "In a shocking finding, scientists discovered a herd of unicorns living in a remote valley.",
];
for (const text of STARTS) {
  $("starts").append(h("button", { onclick: () => {
    editor.put(text, text.length, { record: true });
    $("text").focus();
    writer.generate(text.length);
  } }, text));
}

if (matchMedia("(max-width: 1179px)").matches) $("settings-details").open = false;
showMeasures({ tokens: [] });
editor.restore();
select(tabs.find(({ id }) => id === `tab-${location.hash.slice(1)}`) ?? tabs[0]);
connect();
