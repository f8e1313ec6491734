// Conversations and settings, in this browser only. Each conversation has its own key, so that two open
// windows do not write over each other's.

import { toast, words } from "./page.js";

const PREFIX = "instructgpt.";
const CHAT = `${PREFIX}chat.`;
const SETTINGS = `${PREFIX}settings`;

const DEFAULTS = {
  model: "",
  other: "",
  compare: false,
  temperature: 0.7,
  top_p: 1,
  max_tokens: null, // null: as long as there is room
  consent: null, // null: not asked yet
  log: false,
  person: "", // a random name that goes with feedback, so that one person's ratings stay together
};

function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    toast(words.storage_full);
  }
}

export const settings = { ...DEFAULTS, ...read(SETTINGS, {}) };

export function saveSettings() {
  write(SETTINGS, settings);
}

/** A random name: letters and digits. */
export function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newChat(system = "") {
  return { id: randomName(), title: "", system, turns: [], updated: Date.now() };
}

const deleted = new Set(); // a reply that ends later must not bring its conversation back

export function saveChat(chat) {
  if (!chat.turns.length || deleted.has(chat.id)) return;
  chat.updated = Date.now();
  chat.title ||= chat.turns[0].text.replace(/\s+/g, " ").trim().slice(0, 80);
  write(CHAT + chat.id, chat);
}

/** All conversations, the latest first. */
export function listChats() {
  const keys = Array.from({ length: localStorage.length }, (_, i) => localStorage.key(i));
  const chats = keys.filter((key) => key.startsWith(CHAT)).map((key) => read(key, null));
  return chats.filter((chat) => chat && Array.isArray(chat.turns)).sort((a, b) => b.updated - a.updated);
}

export function deleteChat(id) {
  deleted.add(id);
  localStorage.removeItem(CHAT + id);
}

/** Forget everything that this page keeps, the key included. */
export function deleteEverything() {
  listChats().forEach((chat) => deleted.add(chat.id));
  for (const storage of [localStorage, sessionStorage]) {
    const keys = Array.from({ length: storage.length }, (_, i) => storage.key(i));
    keys.filter((key) => key.startsWith(PREFIX)).forEach((key) => storage.removeItem(key));
  }
  Object.assign(settings, DEFAULTS);
}

/** Called when another window changes conversations. */
export function onOtherWindow(changed) {
  window.addEventListener("storage", (event) => {
    if (event.key === null || event.key.startsWith(CHAT)) changed();
  });
}

const KEY = `${PREFIX}key`;

export function apiKey() {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
}

export function saveKey(key, remember) {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  if (key) (remember ? localStorage : sessionStorage).setItem(KEY, key);
}
