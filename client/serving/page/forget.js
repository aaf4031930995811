// The tab Forget: choose, confirm, wait, see what came of it.

import { byId, element, json, problem } from "./api.js";

const POLL_MS = 500;
let polling = false;
let stored = false; // there may be something to remove where no item is listed

const boxes = () => [...byId("forget-list").querySelectorAll("input[type=checkbox]")];
const chosen = () => boxes().filter((box) => box.checked).map((box) => box.value);

function follow() {
  byId("forget-selected").disabled = polling || chosen().length === 0;
  byId("forget-all").disabled = polling || !stored;
}

function row({ number, id, date, preview }) {
  const line = element("div", "item");
  const box = element("input", "", "", { type: "checkbox", id: `item-${number}`, value: id });
  const label = element("label", "preview", `${number}. ${date ? `${date}: ` : ""}${preview}`, {
    for: box.id,
  });
  line.append(box, label);
  return line;
}

export async function loadItems() {
  if (polling) return;
  problem("");
  try {
    const { items } = await json("/api/items");
    const rows = items.map(row);
    byId("forget-list").replaceChildren(...(rows.length ? rows : [element("p", "", "There are no items.")]));
  } catch (error) {
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
    await followJob(await json("/api/forget", request));
  } catch (error) {
    problem(error.message);
  }
}

function describe({ state, phase, done, total, report, error }) {
  if (state === "running") {
    const far = total ? ` ${done} of ${total}` : "";
    return phase ? `Forgetting: ${phase}${far}…` : "Forgetting…";
  }
  if (state === "failed") return `Forgetting could not be completed: ${error}`;
  const notes = report.notes.map((note) => ` ${note}`).join("");
  return `Done: ${report.forgotten} forgotten, ${report.kept} kept.${notes}`;
}

function showJob(job) {
  byId("forget-progress").textContent = describe(job);
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
export async function followJob(job) {
  if (polling) return;
  polling = true;
  follow();
  try {
    while (job.state === "running") {
      showJob(job);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      job = await json("/api/forget");
    }
    showJob(job);
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
  byId("confirm-yes").addEventListener("click", () => answer(true));
  byId("confirm-no").addEventListener("click", () => answer(false));
  // Not "close", which comes later, perhaps when the next question is open already.
  byId("confirm").addEventListener("cancel", () => answered(false));
  byId("forget-selected").addEventListener("click", () => {
    const ids = chosen();
    const what = `${ids.length} of ${boxes().length} items will be removed and the model trained again from the rest. This may take minutes.`;
    begin({ ids }, "Forget the selected items?", what);
  });
  byId("forget-all").addEventListener("click", () => {
    const count = boxes().length;
    const listed = count ? `All ${count} items listed here, those of other tasks, ` : "All items, ";
    const what = `${listed}everything learned from them, and the keys will be removed.`;
    begin({ all: true }, "Forget everything?", what);
  });
}

export function showForget(status) {
  stored = status.stored;
  follow();
}
