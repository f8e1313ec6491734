// The server's HTTP interface.

import { apiKey, settings } from "./store.js";
import { words } from "./page.js";

/** What the server said was wrong, in its words. */
export class Problem extends Error {
  constructor(message, status, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let wrongKey = () => {};

/** `call` runs whenever the server refuses the key. */
export function onWrongKey(call) {
  wrongKey = call;
}

async function request(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (options.body) headers["Content-Type"] = "application/json";
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(words.no_server, 0);
  }
  if (response.ok) return response;
  if (response.status === 401) wrongKey();
  throw await problemOf(response);
}

async function problemOf(response) {
  const text = await response.text();
  try {
    const { message, code } = JSON.parse(text).error;
    return new Problem(message, response.status, code);
  } catch {
    return new Problem(text || `${response.status} ${response.statusText}`, response.status);
  }
}

const post = (path, body, more = {}) => request(path, { method: "POST", body: JSON.stringify(body), ...more });

export const health = async () => (await request("/health")).json();
export const models = async () => (await (await request("/v1/models")).json()).data;
export const tasks = async (language) => (await (await request(`/chat/tasks?language=${language}`)).json()).tasks;
export const fillTask = async (name, body) =>
  (await (await post(`/chat/tasks/${encodeURIComponent(name)}`, body)).json()).messages;
export const toHtml = async (texts) => (await (await post("/chat/markdown", { texts })).json()).html;
export const sendFeedback = async (row) => (await post("/v1/feedback", row)).json();

/**
 * Stream one reply. `onText` gets each piece of text.
 * Returns { finish, fingerprint, model }; throws a Problem, or an AbortError when `signal` fires.
 */
export async function complete(body, signal, onText) {
  const headers = settings.log ? { "Instructgpt-Consent": "log" } : {};
  const response = await post("/v1/chat/completions", { ...body, stream: true }, { signal, headers });
  const result = { finish: null, fingerprint: null, model: body.model };
  for await (const event of events(response.body)) {
    if (event === "[DONE]") break;
    const chunk = JSON.parse(event);
    if (chunk.error) throw new Problem(chunk.error.message, 500);
    result.fingerprint ??= chunk.system_fingerprint ?? null;
    result.model = chunk.model ?? result.model;
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) result.finish = choice.finish_reason;
  }
  // A stream that ends without a reason was cut off on the way.
  if (result.finish === null) throw new Problem(words.broken_stream, 0);
  return result;
}

/** Data of server-sent events, one string each. */
async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      held += decoder.decode(value, { stream: true }).replaceAll("\r\n", "\n");
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
