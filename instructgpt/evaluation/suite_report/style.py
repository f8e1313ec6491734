"""Styles and script of the report's page. It loads nothing and sends nothing."""

STYLE = """
section h3 { font-size: 16px; margin: 34px 0 2px; scroll-margin-top: 12px; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: 2px; }
th[scope=row] { color: var(--ink); font-weight: 500; }
.table th, .table td { vertical-align: top; }
.table small { display: block; color: var(--soft); font-size: 12.5px; }
.better, .table small.better { color: var(--good); } .worse, .table small.worse { color: var(--bad); }
.plot { display: grid; grid-template-columns: minmax(90px, max-content) minmax(120px, 1fr) max-content;
  gap: 3px 14px; align-items: center; margin: 10px 0 6px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
.row { display: contents; }
.name { overflow-wrap: anywhere; }
.told { text-align: right; }
.line { position: relative; height: 18px; border: solid var(--rule); border-width: 0 1px; }
.line i { position: absolute; display: block; }
.line .bar { top: 6px; height: 6px; border-radius: 3px; opacity: 0.35; }
.line .spot { top: 4px; width: 10px; height: 10px; margin-left: -5px; border-radius: 50%; }
.line .grid { top: 0; bottom: 0; width: 1px; background: var(--rule); opacity: 0.6; }
.line .zero { top: -2px; bottom: -2px; width: 1px; background: var(--soft); }
.ticks { position: relative; height: 16px; color: var(--soft); font-size: 12px; }
.ticks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
details dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; font-size: 13px;
  margin: 8px 0 16px; }
dt { color: var(--soft); } dt b { color: var(--ink); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
dd code { font-size: 12.5px; }
.wide svg { min-width: 640px; }
.tools { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 6px; }
.tools input, .tools select { font: inherit; font-size: 14px; color: var(--ink); background: var(--paper);
  border: 1px solid var(--soft); border-radius: 6px; padding: 7px 10px; max-width: 100%; }
.tools input { flex: 1 1 240px; }
button { font: inherit; font-size: 14px; color: var(--ink); background: var(--card);
  border: 1px solid var(--rule); border-radius: 6px; padding: 7px 16px; cursor: pointer; }
:focus-visible { outline: 2px solid #3f83f8; outline-offset: 2px; }
.sample .text { white-space: pre-wrap; margin: 2px 0 8px; }
.sample .key { color: var(--soft); font-size: 12.5px; margin: 6px 0 0; }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 6px 18px;
  border-top: 1px solid var(--rule); margin-top: 8px; padding-top: 6px; }
mark { background: #f2d46b; color: #1d2329; border-radius: 2px; }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media (max-width: 640px) {
  main { padding: 24px 14px 60px; }
  h1 { font-size: 23px; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
  .card b { font-size: 17px; }
  .table th[scope=row] { white-space: normal; overflow-wrap: anywhere; min-width: 120px; padding-left: 0; }
  .table th, .table td { padding: 6px 8px; }
  .plot { display: block; }
  .row { display: grid; grid-template-columns: minmax(0, 1fr) max-content; gap: 0 10px; margin-bottom: 6px; }
  .row .line, .row .ticks { grid-column: 1 / -1; grid-row: 2; }
  details dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 6px; }
}
@media print { .tools, #more { display: none; } }
"""

SCRIPT = """
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("samples-data").textContent);
  const query = document.getElementById("query"), task = document.getElementById("task");
  const kind = document.getElementById("kind"), list = document.getElementById("samples");
  const count = document.getElementById("count"), more = document.getElementById("more");
  const PAGE = 20;
  let found = [], shown = 0;

  function words(value) {
    if (value === null || value === undefined) return "";
    if (Array.isArray(value)) return value.map(words).join("\\n");
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  }
  data.items.forEach(function (item) {
    const parts = [item.id, words(Object.values(item.shown))];
    item.replies.forEach(function (reply) { parts.push(words(Object.values(reply.shown))); });
    item.all = parts.join("\\n").toLowerCase();
  });
  function element(name, kind, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function marked(text, sought) {
    const box = element("p", "text");
    const low = text.toLowerCase();
    let at = 0, next = sought && low.length === text.length ? low.indexOf(sought) : -1;
    while (next >= 0) {
      box.append(text.slice(at, next), element("mark", "", text.slice(next, next + sought.length)));
      at = next + sought.length;
      next = low.indexOf(sought, at);
    }
    box.append(text.slice(at));
    return box;
  }
  function fields(box, values, sought) {
    Object.keys(values).forEach(function (key) {
      const text = words(values[key]);
      if (!text) return;
      box.append(element("p", "key", key.replaceAll("_", " ")), marked(text, sought));
    });
  }
  function card(item, sought) {
    const box = element("article", "sample");
    box.append(element("p", "why", data.tasks[item.task] + " \\u00b7 " + item.id));
    fields(box, item.shown, sought);
    const replies = element("div", "replies");
    item.replies.forEach(function (reply) {
      const side = element("div");
      const score = Object.keys(reply.score).map(function (key) {
        return key.replaceAll("_", " ") + " " + reply.score[key];
      }).join(", ");
      side.append(element("p", "why", data.models[reply.model] + (score ? " \\u00b7 " + score : "")));
      fields(side, reply.shown, sought);
      replies.append(side);
    });
    box.append(replies);
    return box;
  }
  function grow() {
    const sought = query.value.trim().toLowerCase();
    found.slice(shown, shown + PAGE).forEach(function (item) { list.append(card(item, sought)); });
    shown = Math.min(found.length, shown + PAGE);
    count.textContent = found.length + " of " + data.items.length + " items";
    more.hidden = shown >= found.length;
  }
  function search() {
    const sought = query.value.trim().toLowerCase();
    found = data.items.filter(function (item) {
      return (task.value === "" || item.task === Number(task.value)) &&
        (kind.value === "" || item.differ) && item.all.includes(sought);
    });
    list.textContent = "";
    shown = 0;
    grow();
  }
  query.addEventListener("input", search);
  task.addEventListener("change", search);
  kind.addEventListener("change", search);
  more.addEventListener("click", grow);
  search();
})();
"""
