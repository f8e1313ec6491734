// Replies as HTML. The server turns Markdown into harmless HTML; this is the only place that puts HTML into the
// page, and the page's policy lets no other.

import { toHtml } from "./api.js";
import { copyButton, make, words } from "./page.js";

const EVERY = 300; // milliseconds between two renderings of a reply that is being written
const MOST_AT_ONCE = 32;
const LONGEST = 100_000; // characters; a longer reply stays plain text

const policy = window.trustedTypes
  ? window.trustedTypes.createPolicy("rendered-reply", { createHTML: (html) => html })
  : { createHTML: (html) => html };

const known = new Map(); // text -> HTML

/** Have these texts rendered in as few requests as it takes; failures leave them plain. */
export async function prepare(texts) {
  const missing = [...new Set(texts)].filter((text) => text && text.length <= LONGEST && !known.has(text));
  for (let i = 0; i < missing.length; i += MOST_AT_ONCE) {
    const part = missing.slice(i, i + MOST_AT_ONCE);
    try {
      const html = await toHtml(part);
      part.forEach((text, j) => known.set(text, html[j]));
    } catch {
      return;
    }
  }
}

/** Shows a reply in `node`, while it is written and after: rendered as far as it is, the rest as it comes. */
export class RenderedReply {
  constructor(node) {
    this.node = node;
    this.text = "";
    this.rendered = 0; // characters of the text that are shown as HTML
    this.shown = ""; // the text that is shown as HTML
    this.busy = false;
    this.tail = make("span", { className: "tail" });
    this.waiting = null;
  }

  /** The whole text as it is now. */
  show(text, { final = false } = {}) {
    if (!text.startsWith(this.text)) {
      this.rendered = 0; // another text, not more of the same
      this.shown = "";
      this.node.replaceChildren();
    }
    this.text = text;
    this.final = final;
    if (text === this.shown) return;
    if (known.has(text)) this.#put(text, known.get(text));
    else {
      this.tail.textContent = text.slice(this.rendered);
      if (!this.rendered) this.node.replaceChildren(this.tail);
      else if (this.tail.parentNode !== this.node) this.node.append(this.tail);
      this.#render();
    }
  }

  async #render() {
    if (this.busy || this.waiting || this.text.length > LONGEST) return;
    this.busy = true;
    const text = this.text;
    try {
      const html = known.get(text) ?? (await toHtml([text]))[0];
      if (this.final && text === this.text) known.set(text, html);
      if (this.text.startsWith(text)) this.#put(text, html);
    } catch {
      return; // it stays plain
    } finally {
      this.busy = false;
    }
    if (this.text === text) return;
    this.waiting = setTimeout(() => {
      this.waiting = null;
      this.#render();
    }, this.final ? 0 : EVERY);
  }

  #put(text, html) {
    this.rendered = text.length;
    this.shown = text;
    this.node.innerHTML = policy.createHTML(html);
    this.node.querySelectorAll("pre").forEach(decorate);
    this.node.querySelectorAll("table").forEach((table) => {
      const box = make("div", { className: "table-box", tabIndex: 0 });
      table.replaceWith(box);
      box.append(table);
    });
    this.tail.textContent = this.text.slice(this.rendered);
    if (this.tail.textContent) this.node.append(this.tail);
  }
}

/** A frame around a code block: its language, and a copy button. */
function decorate(pre) {
  const code = pre.querySelector("code");
  const name = /language-(\S+)/.exec(code?.className ?? "")?.[1] ?? words.code;
  const head = make("div", { className: "code-head" }, make("span", {}, name), copyButton(() => pre.textContent, words.copy_code));
  const box = make("div", { className: "code-box" });
  pre.replaceWith(box);
  pre.tabIndex = 0; // it scrolls sideways, so the keyboard must reach it
  box.append(head, pre);
}
