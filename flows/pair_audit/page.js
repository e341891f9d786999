"use strict";

const one = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("nav button")];
let current = null; // name of the pair that is shown
let waiting = false; // a second key before the answer would judge a pair that nobody has seen

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function show(state) {
  const pair = state.pair;
  current = pair === null ? null : pair.pair;
  one("fault").hidden = true;
  one("pair").hidden = pair === null;
  one("done").hidden = pair !== null;
  one("count").textContent =
    `${state.judged} of ${state.expected} pairs judged` + (state.skipped ? `, ${state.skipped} skipped` : "");
  one("bar").style.width = `${(100 * state.judged) / Math.max(1, state.expected)}%`;
  const found = state.precision;
  one("precision").textContent =
    found === null ? "" : `right: ${percent(found.share)} (95 %: ${percent(found.low)} to ${percent(found.high)})`;
  for (const button of buttons) {
    button.disabled = button.id === "undo" ? state.judged + state.skipped === 0 : pair === null;
  }
  if (pair === null) return;
  one("noun").textContent = pair.noun;
  const [before, noun, after] = pair.caption;
  const marked = document.createElement("mark");
  marked.textContent = noun; // texts of the data set stay texts
  one("caption").replaceChildren(before, marked, after);
  const name = encodeURIComponent(pair.pair);
  one("picture").src = `picture/${name}`;
  one("crop").src = `crop/${name}`;
  const numbers = ["score", "margin"].filter((key) => pair[key] !== null).map((key) => `${key} ${pair[key].toFixed(3)}`);
  one("facts").textContent = [pair.stratum, ...numbers, pair.pair].join(" · ");
}

async function ask(path, body) {
  if (waiting) return;
  waiting = true;
  try {
    const options = body === undefined ? {} : {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    };
    const answer = await fetch(path, options);
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json());
  } catch (error) {
    one("fault").textContent = `Not written: ${error.message}`;
    one("fault").hidden = false;
  } finally {
    waiting = false;
  }
}

function press(button) {
  if (button.disabled) return;
  if (button.id === "undo") ask("undo", {});
  else ask("verdict", { pair: current, verdict: button.dataset.verdict });
}

for (const button of buttons) button.addEventListener("click", () => press(button));
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key === "Backspace" ? "u" : event.key.toLowerCase();
  const button = buttons.find((each) => each.dataset.key === key);
  if (!button) return;
  event.preventDefault();
  press(button);
});
ask("state");
