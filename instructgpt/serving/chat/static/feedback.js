// What people say of replies: comparisons, thumbs, edited replies. Nothing leaves the browser without consent.

import { sendFeedback } from "./api.js";
import { announce, byId, make, server, toast, words } from "./page.js";
import { messagesBefore } from "./replies.js";
import { randomName, saveSettings, settings } from "./store.js";

const REASONS = {
  up: ["correct", "clear", "complete"],
  down: ["incorrect", "not_followed", "made_up", "too_long", "harmful"],
};

let saidOff = false;

/** Whether feedback may be stored: asked once, then remembered; it can be changed in the settings. */
export async function consent() {
  if (settings.consent === null) {
    settings.consent = await ask();
    saveSettings();
  }
  if (!settings.consent && !saidOff) {
    saidOff = true;
    toast(words.not_stored);
  }
  return settings.consent;
}

function ask() {
  const dialog = byId("consent-dialog");
  return new Promise((resolve) => {
    let answer = null; // closed without an answer: not now, and asked again another time
    byId("consent-yes").onclick = () => { answer = true; dialog.close(); };
    byId("consent-no").onclick = () => { answer = false; dialog.close(); };
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    byId("consent-no").focus();
  });
}

const asRow = (reply, text = reply.text) => ({
  text,
  model: reply.model,
  parameters: reply.parameters,
  ...(reply.fingerprint ? { system_fingerprint: reply.fingerprint } : {}),
});

/** Send one row if that is allowed; returns whether it was stored. */
async function send(row) {
  if (!(await consent())) return false;
  if (!settings.person) {
    settings.person = `web-${randomName()}`;
    saveSettings();
  }
  try {
    await sendFeedback({ ...row, language: server.language, consent: true, user: settings.person });
  } catch (error) {
    toast(`${words.not_sent} ${error.message}`);
    return false;
  }
  announce(words.stored);
  return true;
}

export const sendChoice = (chat, index, turn) =>
  send({
    kind: "comparison",
    prompt: messagesBefore(chat, index),
    replies: turn.replies.map((reply) => asRow(reply)),
    choice: turn.choice,
    ...(turn.reason ? { reason: turn.reason } : {}),
  });

export const sendThumb = (chat, index, reply) =>
  send({
    kind: "thumb",
    prompt: messagesBefore(chat, index),
    replies: [asRow(reply)],
    thumb: reply.thumb,
    ...(reply.flags?.length ? { flags: reply.flags } : {}),
    ...(reply.reason ? { reason: reply.reason } : {}),
  });

export const sendEdit = (chat, index, reply) =>
  send({
    kind: "edit",
    prompt: messagesBefore(chat, index),
    replies: [asRow(reply, reply.original)],
    edited: reply.text,
  });

/**
 * A small form that asks why; `onSend` gets { flags, reason }. `kind` is up, down or comparison, which has no
 * ready reasons.
 */
export function reasonForm(kind, onSend, onClose) {
  const chosen = new Set();
  const chips = (REASONS[kind] ?? []).map((name) => {
    const chip = make("button", { type: "button", className: "chip", "aria-pressed": "false" }, words[`reason_${name}`]);
    chip.addEventListener("click", () => {
      const now = !chosen.delete(name);
      if (now) chosen.add(name);
      chip.setAttribute("aria-pressed", String(now));
    });
    return chip;
  });
  const box = make("input", { type: "text", maxLength: 1000, placeholder: words.why_hint, "aria-label": words.why });
  return make(
    "form",
    {
      className: "reason",
      onsubmit: (event) => {
        event.preventDefault();
        onSend({ flags: [...chosen], reason: box.value.trim() });
      },
    },
    make("span", { className: "why" }, words.why),
    make("div", { className: "chips" }, ...chips),
    box,
    make("div", { className: "row" },
      make("button", { type: "submit", className: "primary small" }, words.send_reason),
      make("button", { type: "button", className: "plain small", onclick: onClose }, words.skip_reason)),
  );
}
