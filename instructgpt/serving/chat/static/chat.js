// The page's beginning: wires the parts, and does what the user asks for.

import { health, models, onWrongKey } from "./api.js";
import { announce, byId, iconButton, make, server, toast, words } from "./page.js";
import { prepare } from "./rendered.js";
import { isRunning, isWriting, liveChat, newReply, stop, write } from "./replies.js";
import { askForKey, setUpSettings } from "./settings.js";
import { apiKey, deleteChat, listChats, newChat, onOtherWindow, saveChat, saveSettings, settings } from "./store.js";
import { openTasks, suggest } from "./tasks.js";
import { chooseByKey, drawTurn, growReply, showChat } from "./thread.js";

let chat = newChat();
let names = []; // models that can talk

const handlers = { again, ask };

// -- talking

/** Put what the user said at `index` (what was there goes), and have it answered. */
function ask(index, text) {
  if (!names.length) return;
  stop(chat);
  chat.turns.splice(index);
  chat.turns.push({ role: "user", text });
  drawTurn(chat, chat.turns.at(-1));
  answer();
}

function answer() {
  const turn = { role: "assistant", shown: 0, pair: settings.compare, replies: [newReply(settings.model)] };
  if (settings.compare) {
    const other = newReply(settings.other || settings.model);
    // Which model stands left is drawn, so that nobody rates a place or a name.
    if (crypto.getRandomValues(new Uint8Array(1))[0] & 1) turn.replies.push(other);
    else turn.replies.unshift(other);
  }
  chat.turns.push(turn);
  saveChat(chat);
  fillTurn(chat, turn, turn.replies);
}

/** Another reply for turn `index`: beside those there are, or instead of one that failed. */
function again(index, { instead = false } = {}) {
  if (isRunning(chat)) return;
  const turn = chat.turns[index];
  chat.turns.splice(index + 1);
  if (turn.pair) {
    turn.replies = turn.replies.map((reply) => newReply(reply.model));
    turn.choice = undefined;
    fillTurn(chat, turn, turn.replies);
    return;
  }
  const reply = newReply(settings.model);
  if (instead) turn.replies[turn.shown] = reply;
  else turn.shown = turn.replies.push(reply) - 1;
  fillTurn(chat, turn, [reply]);
}

async function fillTurn(of, turn, replies) {
  const index = of.turns.indexOf(turn);
  follow = true;
  const writings = replies.map(async (reply) => {
    let begun = false;
    await write(of, index, reply, () => {
      if (begun) growReply(of, reply);
      else drawTurn(of, turn);
      begun = reply.text !== "";
      if (of === chat) refresh();
    });
    await prepare([reply.text]);
    drawTurn(of, turn);
  });
  drawHistory();
  await Promise.all(writings);
  drawHistory();
  refresh();
}

// -- conversations

async function open(shown) {
  chat = liveChat(shown.id) ?? shown;
  await prepare(chat.turns.flatMap((turn) => (turn.replies ?? []).map((reply) => reply.text)));
  if (chat.id !== shown.id) return;
  showChat(chat, handlers);
  follow = true;
  refresh();
  drawHistory();
  closeSide();
  byId("message").focus({ preventScroll: true });
}

function drawHistory() {
  const chats = listChats();
  byId("history-empty").hidden = chats.length > 0;
  byId("history").replaceChildren(...chats.map((entry) => {
    const current = entry.id === chat.id;
    const button = make("button", { type: "button", className: "entry", title: entry.title, onclick: () => open(current ? chat : entry) }, entry.title);
    if (current) button.setAttribute("aria-current", "true");
    return make("li", {}, button, iconButton("trash", `${words.delete}: ${entry.title}`, () => {
      deleteChat(entry.id);
      if (current) {
        stop(chat);
        open(newChat());
      } else drawHistory();
    }));
  }));
}

function startTask(messages) {
  const system = messages.filter((message) => message.role === "system").map((message) => message.content).join("\n\n");
  open(newChat(system)).then(() => ask(0, messages.at(-1).content));
}

// -- what the page shows beside the conversation

let follow = true; // the view stays at the end while a reply grows, unless the reader went up

function refresh() {
  const busy = isRunning(chat);
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
  byId("thread").setAttribute("aria-busy", String(busy));
  byId("welcome").hidden = chat.turns.length > 0;
  if (follow) byId("scroll").scrollTop = byId("scroll").scrollHeight;
}

function drawModels() {
  const shown = (name) => (name === "default" && server.profiles ? words.default_model : name);
  const options = (chosen) => names.map((name) => make("option", { value: name, selected: name === chosen }, shown(name)));
  if (!names.includes(settings.model)) settings.model = names[0] ?? "";
  if (!names.includes(settings.other)) settings.other = names[1] ?? settings.model;
  byId("model").replaceChildren(...options(settings.model));
  byId("other-model").replaceChildren(...options(settings.other));
  byId("other-model-box").hidden = !settings.compare;
  byId("compare").setAttribute("aria-pressed", String(settings.compare));
}

async function connect() {
  try {
    server.keys = (await health()).keys;
    if (server.keys && !apiKey()) return askForKey(connect);
    names = (await models()).filter((model) => model.kind !== "reward").map((model) => model.id);
    if (server.profiles && names.length) names.unshift("default"); // what the caller's profile names
  } catch (error) {
    if (error.status !== 401) toast(error.message);
    return;
  }
  drawModels();
  await suggest(startTask);
}

function openSide() {
  document.body.classList.add("side-open");
  byId("shade").hidden = false;
  byId("open-side").setAttribute("aria-expanded", "true");
  byId("close-side").focus();
}

function closeSide() {
  if (!document.body.classList.contains("side-open")) return;
  document.body.classList.remove("side-open");
  byId("shade").hidden = true;
  byId("open-side").setAttribute("aria-expanded", "false");
}

function growBox() {
  const box = byId("message");
  const page = document.documentElement;
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, page.clientHeight * 0.4)}px`;
}

function setUpComposer() {
  const box = byId("message");
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = box.value.trim();
    if (!text || isRunning(chat)) return;
    if (!names.length) {
      connect();
      return;
    }
    box.value = "";
    growBox();
    ask(chat.turns.length, text);
  });
  box.addEventListener("input", growBox);
  box.addEventListener("keydown", (event) => {
    // Enter also ends a Chinese word that is being composed; on a touch screen it is a new line.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  });
  byId("stop").addEventListener("click", () => stop(chat));
}

function setUpRest() {
  byId("new-chat").addEventListener("click", () => open(newChat()));
  byId("open-tasks").addEventListener("click", () => openTasks(startTask));
  byId("open-side").addEventListener("click", openSide);
  byId("close-side").addEventListener("click", closeSide);
  byId("shade").addEventListener("click", closeSide);
  byId("model").addEventListener("change", (event) => { settings.model = event.target.value; saveSettings(); });
  byId("other-model").addEventListener("change", (event) => { settings.other = event.target.value; saveSettings(); });
  byId("compare").addEventListener("click", () => {
    settings.compare = !settings.compare;
    saveSettings();
    drawModels();
    announce(settings.compare ? words.compare_on : words.compare_off);
  });
  const scroll = byId("scroll");
  const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  scroll.addEventListener("scroll", () => {
    follow = atEnd();
    byId("latest").hidden = follow;
  });
  // Rendered replies change their height after they were drawn.
  new ResizeObserver(() => { if (follow) scroll.scrollTop = scroll.scrollHeight; }).observe(byId("thread"));
  byId("latest").addEventListener("click", () => { follow = true; scroll.scrollTo({ top: scroll.scrollHeight }); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      closeSide();
      if (event.target === byId("message")) event.target.blur(); // then the number keys choose
    }
    const typing = event.target.matches?.("input, textarea, select, dialog *");
    if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) chooseByKey(event.key);
  });
}

onWrongKey(() => askForKey(connect, { wrong: apiKey() !== "" }));
onOtherWindow(drawHistory);
setUpComposer();
setUpRest();
setUpSettings({
  chatNow: () => chat,
  onSystem: (text) => { chat.system = text; saveChat(chat); },
  onDeleted: () => { stop(chat); open(newChat()); drawModels(); },
  onKey: connect,
});
showChat(chat, handlers);
drawHistory();
connect();
