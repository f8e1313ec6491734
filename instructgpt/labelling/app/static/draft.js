// A task's form keeps a draft, and sends itself again when the connection was lost.
//
// The draft holds what was typed and chosen, under the task's name: at once in this browser, and some seconds
// later on the server, so that another browser can go on. It goes when the server has said that the work is
// stored. A lost answer is harmless: the form carries the same token again, and makes one record.

const form = document.querySelector("form[data-draft]");
const SECRET = new Set(["csrf", "token", "seconds"]);
const PREFIX = "instructgpt draft ";
const KEPT_DAYS = 14;
const QUIET_MS = 4000; // of no typing before the draft goes to the server
const RENEW_MS = 120000; // between signs of life while the page is looked at
const IDLE_MS = 60000; // without a key or a click nobody is working

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function forgetOldDrafts() {
  const oldest = Date.now() - KEPT_DAYS * 86400000;
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(PREFIX) && !(parsed(localStorage.getItem(key))?.at > oldest)) localStorage.removeItem(key);
  }
}

function entries() {
  return [...new FormData(form)].filter(([name, value]) => !SECRET.has(name) && typeof value === "string");
}

function save() {
  try {
    localStorage.setItem(PREFIX + form.dataset.draft, JSON.stringify({ at: Date.now(), entries: entries() }));
  } catch {
    // private windows may have no storage; the form works without
  }
}

function newestDraft() {
  const found = [localStorage.getItem(PREFIX + form.dataset.draft), form.dataset.serverDraft].map(parsed);
  return found.filter((draft) => Array.isArray(draft?.entries)).sort((a, b) => b.at - a.at)[0];
}

function restore() {
  const draft = newestDraft();
  if (!draft) return;
  const left = new Map();
  for (const [name, value] of draft.entries) left.set(name, [...(left.get(name) ?? []), value]);
  let typed = false;
  for (const control of form.elements) {
    if (!control.name || SECRET.has(control.name) || control.type === "hidden") continue;
    const values = left.get(control.name) ?? [];
    if (control.type === "radio" || control.type === "checkbox") control.checked = values.includes(control.value);
    else if (control.tagName === "TEXTAREA" || control.tagName === "INPUT") control.value = values[0] ?? "";
    else continue;
    typed ||= control.checked || (control.type !== "radio" && control.type !== "checkbox" && control.value !== "");
  }
  if (typed) document.getElementById("restored").hidden = false;
}

// -- the server's copy of the draft, and the time that was worked

let changed = 0;
let kept = 0;
let alive = Date.now();
let seconds = 0;

async function keepOnServer() {
  kept = Date.now();
  const body = JSON.stringify({ token: form.dataset.lease, at: kept, entries: entries() });
  const headers = { "Content-Type": "application/json", Accept: "application/json", "X-CSRF": form.elements.csrf.value };
  try {
    await fetch("/api/draft", { method: "PUT", headers, body });
  } catch {
    kept = 0; // the browser's own copy is there; try again at the next tick
  }
}

function tick() {
  const now = Date.now();
  if (document.visibilityState === "visible" && now - alive < IDLE_MS) form.elements.seconds.value = ++seconds;
  if (!form.dataset.lease || sending) return;
  const waits = changed > kept && now - changed > QUIET_MS;
  if (waits || (now - alive < IDLE_MS && now - Math.max(kept, opened) > RENEW_MS)) keepOnServer();
}

const opened = Date.now();

// -- sending

function say(text, link) {
  const banner = document.getElementById("banner");
  banner.textContent = text;
  if (link) {
    const anchor = document.createElement("a");
    Object.assign(anchor, { href: link, target: "_blank", textContent: form.dataset.textLogin });
    banner.append(" ", anchor);
  }
  banner.hidden = !text;
}

function complain(problems) {
  const box = document.getElementById("problems");
  box.replaceChildren(...problems.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
  box.hidden = false;
  box.scrollIntoView({ block: "center" });
  box.focus({ preventScroll: true });
}

let sending = false;
let retry = null;

function lock(on) {
  sending = on;
  for (const button of form.querySelectorAll("button[type=submit]")) button.setAttribute("aria-disabled", String(on));
}

function again(body, tries) {
  const timer = setTimeout(() => retry(), Math.min(10000, 1000 * 2 ** Math.min(tries, 4)));
  retry = () => {
    clearTimeout(timer);
    retry = null;
    send(body, tries + 1);
  };
}

async function freshToken(body) {
  const answer = await fetch("/api/token", { headers: { Accept: "application/json" } });
  const { csrf } = await answer.json();
  body.set("csrf", csrf);
  form.elements.csrf.value = csrf;
}

async function send(body, tries) {
  lock(true);
  let answer;
  try {
    answer = await fetch(form.action, { method: "POST", body, headers: { Accept: "application/json" } });
    if (answer.status === 403 && tries < 3 && (await answer.clone().json()).stale) {
      await freshToken(body);
      return send(body, tries + 1);
    }
  } catch {
    answer = null;
  }
  if (!answer || answer.status === 429 || answer.status >= 500) {
    say(form.dataset.textLost);
    return again(body, tries);
  }
  if (answer.status === 401) {
    say(form.dataset.textLoggedOut, "/login");
    return again(body, tries);
  }
  say("");
  const result = await answer.json().catch(() => ({}));
  if (answer.ok) {
    localStorage.removeItem(PREFIX + form.dataset.draft);
    return location.assign(result.next);
  }
  lock(false);
  complain(result.problems ?? [form.dataset.textFailed]);
}

function submitted(event) {
  if (event.submitter?.hasAttribute("data-plain")) return save(); // adds a turn: the server draws the page anew
  event.preventDefault();
  if (sending) return;
  save();
  send(new URLSearchParams(new FormData(form, event.submitter)), 0);
}

if (form) {
  for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;
  if (matchMedia("(max-width: 900px)").matches) {
    for (const guide of document.querySelectorAll("details.guide")) guide.open = false; // the task comes first
  }
  forgetOldDrafts();
  restore();
  const remember = () => {
    changed = Date.now();
    save();
  };
  form.addEventListener("input", remember);
  form.addEventListener("change", remember);
  form.addEventListener("submit", submitted);
  for (const kind of ["keydown", "pointerdown", "wheel"]) {
    document.addEventListener(kind, () => (alive = Date.now()), { passive: true });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(form.querySelector("[data-submit]"));
  });
  window.addEventListener("online", () => retry?.());
  setInterval(tick, 1000);
}
