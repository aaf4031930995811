// The tab Forget: choose, confirm, wait, see what came of it.

import { byId, counted, element, json, problem } from "./api.js";

const POLL_MS = 500;
const FEW = 8; // from so many items on a field to find them helps
const PHASES = {
  embedding: "finding whom you are like",
  adapter: "training your adapter again",
  without: "training without own items before a question, to compare",
};
let polling = false;
let stored = false; // there may be something to remove where no item is listed

const boxes = () => [...byId("forget-list").querySelectorAll("input[type=checkbox]")];
const chosen = () => boxes().filter((box) => box.checked).map((box) => box.value);

function follow() {
  const count = chosen().length;
  byId("forget-selected").disabled = polling || count === 0;
  byId("forget-all").disabled = polling || !stored;
  byId("forget-count").textContent = boxes().length ? `${count} of ${boxes().length} selected` : "";
}

function row({ number, id, date, preview }) {
  const line = element("div", "item");
  const box = element("input", "", "", { type: "checkbox", id: `item-${number}`, value: id });
  const label = element("label", "preview", "", { for: box.id });
  label.append(element("span", "number", `${number}. `));
  if (date) label.append(element("time", "", date), " ");
  label.append(preview);
  line.append(box, label);
  return line;
}

/** Hide what does not hold the words; what is selected stays selected. */
function find() {
  const wanted = byId("forget-find").value.toLowerCase();
  for (const line of byId("forget-list").querySelectorAll(".item")) {
    line.hidden = !line.textContent.toLowerCase().includes(wanted) && !line.querySelector(":checked");
  }
}

export async function loadItems() {
  if (polling) return;
  problem("");
  try {
    const { items } = await json("/api/items");
    const rows = items.map(row);
    byId("forget-list").replaceChildren(...(rows.length ? rows : [element("p", "muted", "There are no items.")]));
    byId("forget-search").hidden = rows.length < FEW;
    byId("forget-find").value = "";
  } catch (error) {
    byId("forget-list").replaceChildren(element("p", "muted", "The items could not be loaded."));
    problem(error.message);
  }
  follow();
}

let answered = () => {};

function answer(yes) {
  answered(yes);
  byId("confirm").close();
}

/** Ask; resolves to whether the person agreed. Escape and Keep are a no. */
function confirmed(title, what) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-what").textContent = what;
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((resolve) => {
    answered = resolve;
  });
}

async function begin(request, title, what) {
  if (!(await confirmed(title, what))) return;
  problem("");
  try {
    await followJob(await json("/api/forget", request), true);
  } catch (error) {
    problem(error.message);
  }
}

function describe({ state, phase, report, error }) {
  if (state === "running") return phase ? `Forgetting: ${PHASES[phase] ?? phase}…` : "Forgetting…";
  if (state === "failed") return `Forgetting could not be completed: ${error}`;
  const notes = report.notes.map((note) => ` ${note}`).join("");
  return `Done: ${report.forgotten} forgotten, ${report.kept} kept.${notes}`;
}

/** Seconds in words, no finer than an estimate is. */
export function duration(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 90) return `about ${Math.round(seconds / 5) * 5} seconds`;
  return `about ${counted(Math.round(seconds / 60), "minute")}`;
}

function amount({ state, done, total, left_s: left }) {
  if (state !== "running" || !total) return "";
  const known = left !== null && done < total;
  return `Step ${done} of ${total}${known ? `, ${duration(left)} left for this part` : ""}`;
}

/** Only a change of the first line is read out; the numbers change too often for that. */
function showJob(job) {
  const told = describe(job);
  byId("forget-job").hidden = false;
  const line = byId("forget-progress");
  if (line.textContent !== told) line.textContent = told;
  line.classList.toggle("good", job.state === "done");
  line.classList.toggle("bad", job.state === "failed");
  byId("forget-numbers").textContent = amount(job);
  const bar = byId("forget-bar");
  bar.hidden = job.state !== "running";
  if (job.total) {
    bar.max = job.total;
    bar.value = job.done;
  } else {
    bar.removeAttribute("value");
  }
}

/** Show a running job until it ends; also called for one that an earlier page began. */
export async function followJob(job, focus = false) {
  if (polling) return;
  polling = true;
  follow();
  showJob(job);
  if (focus) byId("forget-job").focus(); // the button that had it is disabled now
  try {
    while (job.state === "running") {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      job = await json("/api/forget");
      showJob(job);
    }
  } finally {
    polling = false;
    byId("forget-bar").hidden = true;
    follow();
  }
  await loadItems();
  byId("forget").dispatchEvent(new Event("changed"));
}

export function startForget() {
  byId("forget-list").addEventListener("change", follow);
  byId("forget-find").addEventListener("input", find);
  byId("confirm-yes").addEventListener("click", () => answer(true));
  byId("confirm-no").addEventListener("click", () => answer(false));
  // Not "close", which comes later, perhaps when the next question is open already.
  byId("confirm").addEventListener("cancel", () => answered(false));
  byId("forget-selected").addEventListener("click", () => {
    const ids = chosen();
    const what = `${ids.length} of ${counted(boxes().length, "item")} will be removed and the model trained again from the rest. This may take minutes.`;
    begin({ ids }, "Forget the selected items?", what);
  });
  byId("forget-all").addEventListener("click", () => {
    const count = boxes().length;
    const listed = count ? `All ${counted(count, "item")} listed here, those of other tasks, ` : "All items, ";
    const what = `${listed}everything learned from them, and the keys will be removed.`;
    begin({ all: true }, "Forget everything?", what);
  });
}

export function showForget(status) {
  stored = status.stored;
  follow();
}
