// The tab Compare: every stage's answer beside the others', and what each changes.

import { byId, counted, element, events, stoppable } from "./api.js";
import { changes } from "./diff.js";

const MARKS = { new: ["ins", "new: "], gone: ["del", "went away: "] };
let stages = [];

const column = (stage) => byId("compare-columns").querySelector(`[data-stage="${stage}"]`);
const part = (stage, name) => column(stage).querySelector(`.${name}`);

function say(stage, state) {
  part(stage, "state").textContent = state;
}

/** A stretch of words; what changed is an element that also says so to whoever does not see it. */
function stretch({ kind, text }) {
  if (kind === "same") return [document.createTextNode(text)];
  const [tag, spoken] = MARKS[kind];
  const [space] = /^\s*/.exec(text);
  const made = element(tag);
  made.append(element("span", "visually-hidden", spoken), text.slice(space.length));
  const whole = element("span", kind); // what went away is hidden with the white space before it
  whole.append(space, made);
  return [whole];
}

/** Mark in `stage` what is not as it was in the stage before, and say how much that is. */
function mark(stage, before, after, earlier) {
  const found = changes(before, after);
  const count = (kind) => found.filter((one) => one.kind === kind).reduce((sum, one) => sum + one.count, 0);
  part(stage, "text").replaceChildren(...found.flatMap(stretch));
  const [fresh, gone] = [count("new"), count("gone")];
  const same = found.every(({ kind }) => kind === "same");
  let told = `Against stage ${earlier}: ${counted(fresh, "new word")}, ${gone} gone.`;
  if (same) told = `The same answer as stage ${earlier}.`;
  else if (fresh + gone === 0) told = `Against stage ${earlier}: the same words, other punctuation.`;
  part(stage, "change").textContent = told;
  if (!same) byId("compare-key").hidden = false;
}

function clear() {
  byId("compare-key").hidden = true;
  for (const stage of stages) {
    for (const name of ["text", "change"]) part(stage, name).replaceChildren();
    part(stage, "text").classList.remove("waiting");
    part(stage, "text").setAttribute("aria-busy", "true");
    say(stage, "Waiting for its turn…");
  }
}

async function compare(event) {
  event.preventDefault();
  const prompt = byId("compare-prompt").value;
  if (!prompt.trim()) return;
  const texts = new Map(stages.map((stage) => [stage, ""]));
  clear();
  const onEvent = ({ stage, text, finish_reason: reason }) => {
    const body = part(stage, "text");
    if (!reason) {
      say(stage, "");
      texts.set(stage, texts.get(stage) + text);
      body.textContent = texts.get(stage);
      body.classList.add("waiting");
      return;
    }
    body.classList.remove("waiting");
    say(stage, reason === "length" ? "Cut at the length limit." : texts.get(stage) ? "" : "No answer.");
    const earlier = stages[stages.indexOf(stage) - 1];
    if (earlier) mark(stage, texts.get(earlier), texts.get(stage), earlier);
    body.setAttribute("aria-busy", "false");
  };
  const work = (signal) => events("/api/compare", { prompt }, signal, onEvent);
  const complete = await stoppable(byId("compare-form"), byId("compare-stop"), work);
  for (const stage of stages) {
    const body = part(stage, "text");
    if (!complete && body.getAttribute("aria-busy") === "true") {
      say(stage, texts.get(stage) ? "Stopped." : "Not asked.");
    }
    body.classList.remove("waiting");
    body.setAttribute("aria-busy", "false");
  }
}

export function startCompare() {
  byId("compare-form").addEventListener("submit", compare);
}

export function showCompare(status) {
  stages = status.stages;
  for (const box of byId("compare-columns").children) {
    const stage = box.dataset.stage;
    if (!stages.includes(stage)) {
      for (const name of ["text", "change"]) part(stage, name).replaceChildren();
      say(stage, stage === "3" ? "Nothing is yours yet: proper adapt makes this stage." : "This release does not have it.");
    }
  }
}
