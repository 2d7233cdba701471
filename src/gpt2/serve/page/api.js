// The server's interface: JSON in and out, and a stream of server-sent events.

/** A refusal in the server's words; `code` is for programs: what it was, or the name of the limit. */
export class ApiError extends Error {
  constructor(message, code = null) {
    super(message);
    this.code = code;
  }
}

async function explain(response) {
  try {
    const { error } = await response.json();
    return new ApiError(error.message, error.code);
  } catch {
    return new ApiError(`The server answered ${response.status}.`);
  }
}

export async function get(path, signal) {
  const response = await fetch(path, { signal });
  if (!response.ok) throw await explain(response);
  return response;
}

export async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await explain(response);
  return response;
}

export const postJson = async (path, body, signal) => (await post(path, body, signal)).json();

/** Stream a completion: yields choices with `index`, `text` and, at the end of each, `finish_reason`; last, `usage`. */
export async function* complete(body, signal) {
  const response = await post("v1/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (held + value.replaceAll("\r\n", "\n")).split("\n\n");
      held = events.pop();
      for (const event of events) {
        for (const line of event.split("\n")) {
          if (!line.startsWith("data: ")) continue;
          const data = line.slice(6);
          if (data === "[DONE]") return;
          const chunk = JSON.parse(data);
          if (chunk.error) throw new ApiError(chunk.error.message, chunk.error.code);
          yield* chunk.choices;
          if (chunk.usage) yield { usage: chunk.usage };
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** `gpt2_generation_tokens_total{model_name="a"} 3` -> the sum over models by name. */
export function readMetrics(text, model) {
  const values = {};
  for (const line of text.split("\n")) {
    const found = /^(\w+)(\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})? ([^ ]+)$/.exec(line);
    if (!found) continue;
    const [, name, labels = "", value] = found;
    if (labels.includes("model_name=") && !labels.includes(`model_name=${JSON.stringify(model)}`)) continue; // Prometheus escapes as JSON does
    values[name] = (values[name] ?? 0) + Number(value);
  }
  return values;
}
