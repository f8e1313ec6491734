// The conversation on the page: one element for each turn, redrawn when the turn changes.

import { reasonForm, sendChoice, sendEdit, sendThumb } from "./feedback.js";
import { byId, copyButton, fill, iconButton, make, words } from "./page.js";
import { RenderedReply } from "./rendered.js";
import { isWriting } from "./replies.js";
import { saveChat } from "./store.js";

let chat = null;
let actions = {}; // what chat.js does: again(index), ask(index, text)
const nodes = new Map(); // turn -> element
const bodies = new Map(); // reply -> RenderedReply

/** Show a conversation from its beginning. */
export function showChat(shown, handlers) {
  chat = shown;
  actions = handlers;
  nodes.clear();
  bodies.clear();
  byId("thread").replaceChildren();
  chat.turns.forEach((turn) => drawTurn(chat, turn));
}

/** Draw a turn anew, or for the first time; turns that are gone leave the page. */
export function drawTurn(of, turn) {
  if (of !== chat) return;
  for (const [known, node] of nodes) {
    if (!chat.turns.includes(known)) {
      node.remove();
      nodes.delete(known);
    }
  }
  if (!chat.turns.includes(turn)) return;
  const node = turn.role === "user" ? userTurn(turn) : turn.pair ? pairTurn(turn) : replyTurn(turn);
  const old = nodes.get(turn);
  if (old) old.replaceWith(node);
  else byId("thread").append(node);
  nodes.set(turn, node);
}

/** More text of a reply that is being written. */
export function growReply(of, reply) {
  if (of === chat) bodies.get(reply)?.show(reply.text);
}

const indexOf = (turn) => chat.turns.indexOf(turn);

// -- what the user said

function userTurn(turn) {
  const article = make("article", { className: "turn user", "aria-label": words.you });
  const bubble = make("div", { className: "bubble" }, turn.text);
  const tools = make("div", { className: "tools" },
    copyButton(() => turn.text),
    iconButton("edit", words.edit_message, () => article.replaceChildren(editor(turn.text, words.edit_message, words.send, (text) => {
      actions.ask(indexOf(turn), text);
    }, () => drawTurn(chat, turn)))));
  article.append(bubble, tools);
  return article;
}

/** A text box with a button to take it, and one to leave it. */
function editor(text, label, done, onDone, onCancel, hint) {
  const box = make("textarea", { value: text, className: "edit-box", "aria-label": label, rows: Math.min(16, text.split("\n").length + 2) });
  const form = make("form", {
    className: "editor",
    onsubmit: (event) => {
      event.preventDefault();
      if (box.value.trim()) onDone(box.value);
    },
    onkeydown: (event) => {
      if (event.key === "Escape") onCancel();
      if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) form.requestSubmit();
    },
  },
  box,
  hint ? make("p", { className: "hint" }, hint) : null,
  make("div", { className: "row" },
    make("button", { type: "submit", className: "primary small" }, done),
    make("button", { type: "button", className: "plain small", onclick: onCancel }, words.cancel)));
  queueMicrotask(() => { // once it is on the page
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  });
  return form;
}

// -- one reply

function replyTurn(turn) {
  const reply = turn.replies[turn.shown];
  const article = make("article", { className: "turn reply", "aria-label": words.assistant });
  article.append(make("div", { className: "by" }, reply.model, reply.edited ? make("span", { className: "badge" }, words.edited) : null));
  article.append(bodyOf(reply), ...noteOf(turn, reply));
  if (!isWriting(reply)) article.append(toolsOf(turn, reply, article));
  return article;
}

/** The reply's text; its element is kept while the turn around it is redrawn. */
function bodyOf(reply) {
  if (!bodies.has(reply)) bodies.set(reply, new RenderedReply(make("div", { className: "body" })));
  const body = bodies.get(reply);
  const writing = isWriting(reply);
  body.node.classList.toggle("writing", writing);
  if (reply.text) body.show(reply.text, { final: !writing });
  else body.node.replaceChildren(...(writing ? [make("span", { className: "dots", role: "img", "aria-label": words.writing }, make("i"), make("i"), make("i"))] : []));
  return body.node;
}

/** What is to be said of how a reply came about and ended. */
function noteOf(turn, reply) {
  if (isWriting(reply)) return [];
  if (reply.error) {
    const again = () => actions.again(indexOf(turn), { instead: true });
    return [make("div", { className: "wrong", role: "alert" }, make("span", {}, reply.error),
      make("button", { type: "button", className: "plain small", onclick: again }, words.try_again))];
  }
  const notes = [];
  if (reply.dropped) notes.push(fill(words.dropped, { count: reply.dropped }));
  if (reply.finish === "length") notes.push(words.cut);
  if (reply.finish === "stopped") notes.push(words.stopped);
  if (!reply.text && reply.finish === "stop") notes.push(words.empty_reply);
  return notes.map((note) => make("p", { className: "note" }, note));
}

function toolsOf(turn, reply, article) {
  const tools = make("div", { className: "tools" });
  const count = turn.replies.length;
  if (count > 1) {
    const to = (place) => () => { turn.shown = place; saveChat(chat); drawTurn(chat, turn); };
    tools.append(make("span", { className: "pager" },
      iconButton("left", words.earlier_reply, to(turn.shown - 1), { disabled: turn.shown === 0 }),
      make("span", { "aria-label": fill(words.reply_of, { number: turn.shown + 1, count }) }, `${turn.shown + 1}/${count}`),
      iconButton("right", words.later_reply, to(turn.shown + 1), { disabled: turn.shown === count - 1 })));
  }
  if (reply.text) {
    const copy = copyButton(() => reply.text);
    tools.append(copy, iconButton("edit", words.edit_reply, () => editReply(turn, reply, article)));
    if (!reply.edited) tools.append(thumb(turn, reply, "up"), thumb(turn, reply, "down"));
  }
  if (indexOf(turn) === chat.turns.length - 1) {
    tools.append(iconButton("again", words.again, () => actions.again(indexOf(turn))));
  }
  return tools;
}

function thumb(turn, reply, value) {
  const pressed = reply.thumb === value;
  return iconButton(value, value === "up" ? words.good : words.bad, async () => {
    if (reply.thumb === value) return;
    Object.assign(reply, { thumb: value, flags: [], reason: "" });
    saveChat(chat);
    const [of, index] = [chat, indexOf(turn)];
    drawTurn(of, turn);
    if (!(await sendThumb(of, index, reply)) || !nodes.has(turn)) return;
    const close = () => form.remove();
    const form = reasonForm(value, async (why) => {
      Object.assign(reply, why);
      saveChat(of);
      close();
      await sendThumb(of, index, reply);
    }, close);
    nodes.get(turn).append(form);
    form.scrollIntoView({ block: "nearest" });
  }, { "aria-pressed": String(pressed), className: pressed ? "quiet chosen" : "quiet" });
}

function editReply(turn, reply, article) {
  const index = indexOf(turn);
  const back = () => drawTurn(chat, turn);
  article.replaceChildren(editor(reply.text, words.edit_reply, words.save, (text) => {
    if (text === reply.text) return back();
    reply.original ??= reply.text;
    Object.assign(reply, { text, edited: true });
    saveChat(chat);
    back();
    sendEdit(chat, index, reply);
  }, back, words.edit_reply_hint));
}

// -- two replies side by side

function pairTurn(turn) {
  const article = make("article", { className: "turn pair", "aria-label": words.two_replies });
  const known = turn.choice !== undefined;
  const columns = turn.replies.map((reply, place) => {
    const better = turn.choice === place;
    const name = place === 0 ? words.reply_a : words.reply_b;
    const head = make("div", { className: "by" }, make("strong", {}, name),
      known ? make("span", {}, reply.model) : null,
      better ? make("span", { className: "badge" }, words.better) : null);
    const column = make("section", { className: better ? "column better" : "column", "aria-label": name }, head, bodyOf(reply), ...noteOf(turn, reply));
    if (!isWriting(reply) && reply.text) column.append(make("div", { className: "tools" }, copyButton(() => reply.text)));
    return column;
  });
  article.append(make("div", { className: "columns" }, ...columns));
  const ready = turn.replies.every((reply) => !isWriting(reply) && !reply.error);
  if (ready) article.append(choices(turn));
  return article;
}

const CHOICES = [[0, "choose_a"], ["tie", "choose_tie"], [1, "choose_b"], ["both_bad", "choose_bad"]];

function choices(turn) {
  const bar = make("div", { className: "choices", role: "group", "aria-label": words.which_better });
  if (turn.choice === undefined) bar.append(make("span", { className: "why" }, words.which_better));
  CHOICES.forEach(([value, name]) => {
    const pressed = turn.choice === value;
    bar.append(make("button", { type: "button", className: pressed ? "choice chosen" : "choice", "aria-pressed": String(pressed), onclick: () => choose(turn, value) }, words[name]));
  });
  return bar;
}

async function choose(turn, value) {
  if (turn.choice === value) return;
  turn.choice = value;
  turn.shown = value === 1 ? 1 : 0; // the conversation goes on with the better one
  saveChat(chat);
  const [of, index] = [chat, indexOf(turn)];
  drawTurn(of, turn);
  if (!(await sendChoice(of, index, turn)) || !nodes.has(turn)) return;
  const close = () => form.remove();
  const form = reasonForm("comparison", async ({ reason }) => {
    turn.reason = reason;
    saveChat(of);
    close();
    if (reason) await sendChoice(of, index, turn);
  }, close);
  nodes.get(turn).append(form);
  form.scrollIntoView({ block: "nearest" });
}

/** The number keys 1 to 4 choose in the latest pair; returns whether one did. */
export function chooseByKey(key) {
  const turn = chat?.turns.at(-1);
  const bar = turn?.pair && turn.choice === undefined && nodes.get(turn)?.querySelector(".choices");
  const choice = CHOICES[Number(key) - 1];
  if (!bar || !choice) return false;
  choose(turn, choice[0]);
  return true;
}
