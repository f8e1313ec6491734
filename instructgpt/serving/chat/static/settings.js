// The settings dialog, the key dialog, theme and language.

import { byId, make, server, setCookie, words } from "./page.js";
import { apiKey, deleteEverything, listChats, saveKey, saveSettings, settings } from "./store.js";

/** Wire the dialogs. `chatNow` gives the conversation on the page; `onSystem` and `onDeleted` tell of changes. */
export function setUpSettings({ chatNow, onSystem, onDeleted, onKey }) {
  document.querySelectorAll("dialog [data-close]").forEach((button) => {
    button.addEventListener("click", () => button.closest("dialog").close());
  });
  document.querySelectorAll("dialog").forEach((dialog) => {
    // A press beside the dialog closes it, but for those that need an answer.
    dialog.addEventListener("pointerdown", (event) => {
      if (event.target === dialog && dialog.querySelector("[data-close]")) dialog.close();
    });
  });
  byId("open-settings").addEventListener("click", () => {
    fillIn(chatNow());
    byId("settings-dialog").showModal();
  });
  for (const name of ["temperature", "top_p"]) {
    byId(name).addEventListener("input", () => {
      settings[name] = Number(byId(name).value);
      byId(`${name}-shown`).value = settings[name].toFixed(2);
      saveSettings();
    });
  }
  byId("max_tokens").addEventListener("change", () => {
    const wanted = Math.round(Number(byId("max_tokens").value));
    settings.max_tokens = wanted >= 1 ? wanted : null;
    byId("max_tokens").value = settings.max_tokens ?? "";
    saveSettings();
  });
  byId("system").addEventListener("change", () => onSystem(byId("system").value));
  const switches = { "consent-feedback": "consent", "consent-log": "log" };
  for (const [id, name] of Object.entries(switches)) {
    byId(id)?.addEventListener("change", () => {
      settings[name] = byId(id).checked;
      saveSettings();
    });
  }
  byId("download").addEventListener("click", download);
  byId("change-key").addEventListener("click", () => askForKey(onKey));
  byId("delete-all").addEventListener("click", async () => {
    if (!(await sure())) return;
    deleteEverything();
    byId("settings-dialog").close();
    onDeleted();
  });
  setUpLooks();
}

function fillIn(chat) {
  byId("system").value = chat.system;
  for (const name of ["temperature", "top_p"]) {
    byId(name).value = settings[name];
    byId(`${name}-shown`).value = settings[name].toFixed(2);
  }
  byId("max_tokens").value = settings.max_tokens ?? "";
  byId("consent-feedback").checked = settings.consent === true;
  if (byId("consent-log")) byId("consent-log").checked = settings.log;
  byId("change-key").hidden = !server.keys;
}

function sure() {
  const dialog = byId("sure-dialog");
  return new Promise((resolve) => {
    dialog.returnValue = "no";
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.showModal();
  });
}

function download() {
  const lines = listChats().map((chat) => JSON.stringify(chat));
  const url = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" }));
  make("a", { href: url, download: "conversations.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url));
}

let asking = false;

/** Ask for the API key; `then` runs when one was given. */
export function askForKey(then, { wrong = false } = {}) {
  const dialog = byId("key-dialog");
  byId("key-wrong").hidden = !wrong;
  if (asking) return;
  asking = true;
  byId("key").value = apiKey();
  byId("key-form").onsubmit = () => {
    saveKey(byId("key").value.trim(), byId("key-remember").checked);
    setTimeout(then);
  };
  dialog.onclose = () => { asking = false; };
  dialog.showModal();
  byId("key").focus();
}

function setUpLooks() {
  const root = document.documentElement;
  byId("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    setCookie("theme", root.dataset.theme);
  });
  byId("language").addEventListener("click", () => {
    setCookie("language", server.language === "zh" ? "en" : "zh");
    location.reload();
  });
}
