// What every part of the page needs: its words, elements, icons, and a way to say something.

const data = JSON.parse(document.getElementById("page-data").textContent);

export const words = data.words;
export const server = data.settings;

export const byId = (id) => document.getElementById(id);

/** An element: properties (on... are listeners, dashes are attributes), then children (nodes or text). */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "for" || name === "role" || name === "lang") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the shapes of icons.svg. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/chat/static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon only; its label is for screen readers and as a tip. */
export function iconButton(name, label, onclick, more = {}) {
  return make("button", { type: "button", className: "quiet", "aria-label": label, title: label, onclick, ...more }, icon(name));
}

/** A text with {name} places filled. */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Told to screen readers. */
export function announce(text) {
  byId("status").textContent = text;
}

let toastTimer;

/** Shown for some seconds at the bottom. */
export function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, 6000);
}

/** Copy a text; pages served without TLS have no clipboard interface, so there is an older way, too. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const box = make("textarea", { value: text, className: "hidden" });
  document.body.append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  if (!done) throw new Error(words.copy_failed);
}

/** A copy button that says so for a moment. `text` is a function, read when it is pressed. */
export function copyButton(text, label = words.copy) {
  const button = iconButton("copy", label, async () => {
    try {
      await copyText(text());
    } catch (error) {
      toast(String(error.message || error));
      return;
    }
    button.replaceChildren(icon("check"));
    announce(words.copied);
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Remember a choice that the server must know when it writes the page. */
export function setCookie(name, value) {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=strict`;
}
