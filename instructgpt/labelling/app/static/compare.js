// Comparing by keyboard: A or B is better, T is a tie.

const form = document.querySelector("form[data-compare]");
const singleKeys = document.getElementById("single-keys");
const SWITCH = "instructgpt single keys";

singleKeys.checked = localStorage.getItem(SWITCH) !== "off";
singleKeys.addEventListener("change", () => localStorage.setItem(SWITCH, singleKeys.checked ? "on" : "off"));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("textarea, select, input[type=text]")) return;
  if (!singleKeys.checked) return;
  const choice = form.querySelector(`input[data-key="${CSS.escape(event.key.toUpperCase())}"]`);
  if (!choice) return;
  choice.checked = true;
  choice.focus();
  form.dispatchEvent(new Event("change", { bubbles: true }));
  event.preventDefault();
});
