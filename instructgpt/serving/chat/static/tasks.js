// Task templates to start a conversation from: a menu, then a form with the task's fields.

import { fillTask, tasks } from "./api.js";
import { byId, icon, make, server, toast, words } from "./page.js";

const SUGGESTED = ["summarize", "translate", "rewrite", "explain", "code", "brainstorm"];

let catalog = null;

async function load() {
  catalog ??= await tasks(server.language);
  return catalog;
}

/** Fill the welcome screen with some tasks; `start` gets the messages that a task begins with. */
export async function suggest(start) {
  const all = await load();
  const cards = SUGGESTED.map((name) => all.find((task) => task.name === name)).filter(Boolean);
  byId("suggestions").replaceChildren(...cards.map((task) =>
    make("button", { type: "button", className: "card", onclick: () => openTasks(start, task) },
      make("span", { className: "card-title" }, task.title), make("span", { className: "faint" }, task.group))));
}

/** The menu of all tasks, or the form of one. */
export async function openTasks(start, task = null) {
  const dialog = byId("tasks-dialog");
  try {
    await load();
  } catch (error) {
    toast(error.message);
    return;
  }
  if (task) showForm(task, start);
  else showMenu(start);
  if (!dialog.open) dialog.showModal();
}

function showMenu(start) {
  byId("tasks-title").textContent = words.templates;
  const groups = Map.groupBy ? Map.groupBy(catalog, (task) => task.group) : grouped();
  byId("tasks-body").replaceChildren(...[...groups].map(([group, members]) =>
    make("section", { className: "group" }, make("h3", {}, group),
      make("div", { className: "cards" }, ...members.map((task) =>
        make("button", { type: "button", className: "card small-card", onclick: () => showForm(task, start) }, task.title))))));
}

function grouped() {
  const groups = new Map();
  catalog.forEach((task) => groups.set(task.group, [...(groups.get(task.group) ?? []), task]));
  return groups;
}

function showForm(task, start) {
  byId("tasks-title").textContent = task.title;
  const inputs = task.fields.map((field) => {
    const id = `field-${field.name}`;
    const input = field.long
      ? make("textarea", { id, rows: 6, required: field.required, value: field.default })
      : make("input", { id, type: "text", required: field.required, value: field.default });
    const label = make("label", { for: id }, field.label, field.required ? null : make("span", { className: "hint" }, words.optional));
    return { field, input, nodes: [label, input] };
  });
  const wrong = make("p", { className: "wrong", role: "alert", hidden: true });
  const form = make("form", {
    className: "form",
    onsubmit: async (event) => {
      event.preventDefault();
      const fields = Object.fromEntries(inputs.map(({ field, input }) => [field.name, input.value]));
      try {
        const messages = await fillTask(task.name, { language: server.language, fields });
        byId("tasks-dialog").close();
        start(messages);
      } catch (error) {
        wrong.textContent = error.message;
        wrong.hidden = false;
      }
    },
  },
  ...inputs.flatMap(({ nodes }) => nodes), wrong,
  make("div", { className: "dialog-foot" },
    make("button", { type: "button", className: "plain", onclick: () => showMenu(start) }, icon("left"), make("span", {}, words.all_templates)),
    make("button", { type: "submit", className: "primary" }, words.start)));
  byId("tasks-body").replaceChildren(form);
  inputs[0].input.focus();
}
