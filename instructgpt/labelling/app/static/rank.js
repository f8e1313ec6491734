// Ranking by keyboard, buttons and dragging. The radio buttons of the form are the only state: the strip is
// drawn from them, and every way of ranking sets them, so the form means the same without this file.

const form = document.querySelector("form[data-rank]");
const strip = form.querySelector(".strip");
const live = document.getElementById("live");
const cards = [...form.querySelectorAll(".reply")];
const byLetter = new Map(cards.map((card) => [card.dataset.letter, card]));
const SWITCH = "instructgpt single keys";
const FLAGS = "instructgpt flags open";

const radios = (card) => [...card.querySelectorAll("input[data-rank]")];
const rankOf = (card) => Number(radios(card).find((radio) => radio.checked)?.value ?? 0);

function fill(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function setRank(card, rank) {
  for (const radio of radios(card)) radio.checked = Number(radio.value) === rank;
  form.dispatchEvent(new Event("change", { bubbles: true }));
  const { letter } = card.dataset;
  live.textContent = rank ? fill(strip.dataset.textRanked, { letter, rank }) : fill(strip.dataset.textCleared, { letter });
}

function chip(card) {
  const { letter } = card.dataset;
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "chip", textContent: letter });
  button.dataset.letter = letter;
  const rank = rankOf(card);
  const label = rank ? strip.dataset.textRanked : strip.dataset.textCleared;
  button.setAttribute("aria-label", fill(label, { letter, rank }));
  button.addEventListener("click", () => choose(card));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    setRank(card, Math.min(Math.max(rankOf(card) + step, 0), cards.length));
  });
  grip(button, card);
  return button;
}

function draw() {
  const focused = document.activeElement?.matches(".chip") ? document.activeElement.dataset.letter : "";
  for (const slot of strip.children) {
    const rank = Number(slot.dataset.rank);
    const inside = cards.filter((card) => rankOf(card) === rank);
    slot.querySelector(".chips").replaceChildren(...inside.map(chip));
    slot.classList.toggle("filled", rank > 0 && inside.length > 0);
  }
  for (const card of cards) {
    const rank = rankOf(card);
    const tied = rank && cards.some((other) => other !== card && rankOf(other) === rank);
    const place = card.querySelector(".place");
    place.textContent = rank ? fill(tied ? strip.dataset.textTied : strip.dataset.textPlace, { rank }) : "";
    place.hidden = !rank;
    const count = card.querySelectorAll(".flags input:checked").length;
    card.querySelector(".flags .count")?.replaceChildren(count ? String(count) : "");
  }
  if (focused) strip.querySelector(`.chip[data-letter="${focused}"]`)?.focus();
}

function choose(card) {
  card.focus();
  card.scrollIntoView({ block: "nearest" });
}

// -- dragging, with mouse, pen or finger

function grip(handle, card) {
  handle.addEventListener("pointerdown", (down) => {
    if (down.button !== 0) return;
    let moved = false;
    const slotAt = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest(".slot");
    const move = (event) => {
      const [x, y] = [event.clientX - down.clientX, event.clientY - down.clientY];
      if (!moved && Math.hypot(x, y) < 6) return;
      moved = true;
      handle.classList.add("lifted");
      handle.style.transform = `translate(${x}px, ${y}px)`;
      const over = slotAt(event);
      for (const slot of strip.children) slot.classList.toggle("over", slot === over);
    };
    const end = (event) => {
      document.removeEventListener("pointermove", move);
      document.removeEventListener("pointerup", end);
      document.removeEventListener("pointercancel", end);
      const slot = moved && event.type === "pointerup" ? slotAt(event) : null;
      handle.classList.remove("lifted");
      handle.style.transform = "";
      for (const each of strip.children) each.classList.remove("over");
      if (slot) setRank(card, Number(slot.dataset.rank));
      if (moved) document.addEventListener("click", swallow, { capture: true, once: true });
      setTimeout(() => document.removeEventListener("click", swallow, { capture: true }));
    };
    document.addEventListener("pointermove", move);
    document.addEventListener("pointerup", end);
    document.addEventListener("pointercancel", end);
  });
  handle.addEventListener("dragstart", (event) => event.preventDefault());
}

function swallow(event) {
  event.preventDefault();
  event.stopPropagation();
}

// -- keys

const singleKeys = document.getElementById("single-keys");

function current() {
  const active = document.activeElement;
  if (active?.matches(".chip")) return byLetter.get(active.dataset.letter);
  return active?.closest(".reply") ?? form.querySelector(".reply.chosen");
}

function rate(card, value) {
  const radio = card.querySelector(`input[data-rating][value="${value}"]`);
  if (!radio) return;
  radio.checked = true;
  form.dispatchEvent(new Event("change", { bubbles: true }));
  live.textContent = fill(strip.dataset.textRated, { letter: card.dataset.letter, rating: value });
}

function marks(card) {
  const details = card.querySelector(".flags");
  if (!details) return;
  details.open = true;
  details.querySelector("input").focus();
}

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("textarea, select, input[type=text]")) return;
  const onCard = document.activeElement?.matches(".reply, .chip");
  if (!singleKeys.checked && !onCard) return;
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1];
  const card = current();
  const letter = byLetter.get(event.key.toUpperCase());
  const arrow = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (digit !== undefined && card) {
    if (event.shiftKey) rate(card, digit);
    else if (Number(digit) <= cards.length) setRank(card, Number(digit));
  } else if (event.key === "Backspace" && card) setRank(card, 0);
  else if (letter && !event.shiftKey) choose(letter);
  else if (event.key.toLowerCase() === "m" && card) marks(card);
  else if (arrow && document.activeElement?.matches(".reply")) {
    choose(cards[(cards.indexOf(card) + arrow + cards.length) % cards.length]);
  } else return;
  event.preventDefault();
}

for (const card of cards) {
  card.addEventListener("focusin", () => {
    for (const other of cards) other.classList.toggle("chosen", other === card);
  });
  const letter = card.querySelector(".letter");
  letter.classList.add("grip");
  grip(letter, card);
}
for (const details of form.querySelectorAll("details.flags")) {
  details.open = localStorage.getItem(FLAGS) === "yes" || details.querySelector("input:checked") !== null;
  details.addEventListener("toggle", () => localStorage.setItem(FLAGS, details.open ? "yes" : "no"));
}
singleKeys.checked = localStorage.getItem(SWITCH) !== "off";
singleKeys.addEventListener("change", () => localStorage.setItem(SWITCH, singleKeys.checked ? "on" : "off"));
document.addEventListener("keydown", pressed);
form.addEventListener("change", draw);
draw();
