// Asking the server for replies: which messages go out, with which settings, and how a reply is stopped.

import { complete } from "./api.js";
import { saveChat, settings } from "./store.js";
import { announce, words } from "./page.js";

const running = new Map(); // reply -> AbortController
const live = new Map(); // id -> conversation that a reply is being written for

/** The conversation of that id while a reply is being written for it: what is stored is older. */
export const liveChat = (id) => live.get(id);

export const isRunning = (chat) => chat.turns.some((turn) => turn.replies?.some((reply) => running.has(reply)));

/**
 * The messages before turn number `end`: what the model is asked to answer. A reply that failed is no message;
 * the user's messages around it become one, since models expect the two to take turns.
 */
export function messagesBefore(chat, end) {
  const messages = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  for (const turn of chat.turns.slice(0, end)) {
    const content = turn.role === "user" ? turn.text : turn.replies[turn.shown].text;
    if (!content) continue;
    const last = messages.at(-1);
    if (last?.role === "user" && turn.role === "user") last.content += `\n\n${content}`;
    else messages.push({ role: turn.role, content });
  }
  return messages;
}

/** A reply that is still to be written. The seed is chosen here, so that what was sampled can be told later. */
export function newReply(model) {
  const parameters = {
    temperature: settings.temperature,
    top_p: settings.top_p,
    ...(settings.max_tokens ? { max_completion_tokens: settings.max_tokens } : {}),
    seed: crypto.getRandomValues(new Uint32Array(1))[0] >>> 1,
  };
  return { text: "", model, parameters, fingerprint: null, finish: null, error: null };
}

/**
 * Write `reply` of turn number `index`; `onChange` runs with every piece of text and at the end.
 * Nothing is thrown: what went wrong is in `reply.error`.
 */
export async function write(chat, index, reply, onChange) {
  const controller = new AbortController();
  running.set(reply, controller);
  live.set(chat.id, chat);
  onChange();
  try {
    const result = await completeWithin(messagesBefore(chat, index), reply, controller.signal, (piece) => {
      reply.text += piece;
      onChange();
    });
    Object.assign(reply, result);
    announce(words.reply_done);
  } catch (error) {
    if (error.name === "AbortError") {
      reply.finish = "stopped";
      announce(words.reply_stopped);
    } else {
      reply.error = error.message;
    }
  } finally {
    running.delete(reply);
    if (!isRunning(chat)) live.delete(chat.id);
    saveChat(chat);
    onChange();
  }
}

/** `complete`; where the model's context is full the oldest messages are left out, a turn with its reply. */
async function completeWithin(messages, reply, signal, onText) {
  reply.dropped = 0;
  while (true) {
    try {
      return await complete({ model: reply.model, messages, ...reply.parameters }, signal, onText);
    } catch (error) {
      const first = messages[0].role === "system" ? 1 : 0;
      const next = messages.findIndex((message, place) => place > first && message.role === "user");
      if (error.code !== "context_length_exceeded" || next < 0) throw error;
      reply.dropped += next - first;
      messages.splice(first, next - first);
    }
  }
}

/** Stop all replies of a conversation that are being written; what they are stays. */
export function stop(chat) {
  for (const turn of chat.turns) {
    for (const reply of turn.replies ?? []) running.get(reply)?.abort();
  }
}

export const isWriting = (reply) => running.has(reply);
