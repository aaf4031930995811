// The tabs Chat and Compare: answers that appear as they are made.

import { byId, element, events, fill, stoppable } from "./api.js";

/** A live region's text is read out when it is complete, not piece by piece. */
async function writing(region, work) {
  region.setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    region.setAttribute("aria-busy", "false");
  }
}

function message(who, kind, text) {
  const box = element("div", `message ${kind}`);
  const body = element("p", "text", text);
  box.append(element("p", "who", who), body);
  byId("chat-log").append(box);
  box.scrollIntoView({ block: "nearest" });
  return body;
}

async function send(event) {
  event.preventDefault();
  const prompt = byId("chat-prompt").value;
  const model = byId("chat-model").value;
  if (!prompt.trim()) return;
  message("You", "user", prompt);
  const body = message(model, "model", "");
  const request = { model, stream: true, messages: [{ role: "user", content: prompt }] };
  const work = (signal) =>
    events("/v1/chat/completions", request, signal, ({ choices: [choice] }) => {
      body.textContent += choice?.delta.content ?? "";
      if (choice?.finish_reason === "length") body.textContent += " … (cut at the length limit)";
    });
  await writing(byId("chat-log"), async () => {
    const complete = await stoppable(byId("chat-form"), byId("chat-stop"), work);
    if (complete) byId("chat-prompt").value = "";
    else body.textContent += " … (stopped)";
  });
  byId("chat-prompt").focus();
}

async function compare(event) {
  event.preventDefault();
  const prompt = byId("compare-prompt").value;
  const columns = new Map();
  for (const stage of stages) {
    const column = element("section", "column", "", { "aria-live": "polite" });
    const body = element("p", "text", "");
    column.append(element("h2", "", `Stage ${stage}`), body);
    columns.set(stage, { column, body });
  }
  byId("compare-columns").replaceChildren(...[...columns.values()].map(({ column }) => column));
  const work = (signal) =>
    events("/api/compare", { prompt }, signal, ({ stage, text, finish_reason: reason }) => {
      const { column, body } = columns.get(stage);
      body.textContent += text ?? "";
      column.setAttribute("aria-busy", reason ? "false" : "true");
      if (reason === "length") body.textContent += " … (cut at the length limit)";
    });
  await stoppable(byId("compare-form"), byId("compare-stop"), work);
  for (const { column } of columns.values()) column.setAttribute("aria-busy", "false");
}

let stages = [];

/** Enter sends, Shift+Enter makes a line. */
function enterSends(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!byId("chat-form").querySelector("[type=submit]").disabled) byId("chat-form").requestSubmit();
  }
}

export function startAnswers() {
  byId("chat-form").addEventListener("submit", send);
  byId("chat-prompt").addEventListener("keydown", enterSends);
  byId("compare-form").addEventListener("submit", compare);
}

export function showAnswers(status) {
  stages = status.stages;
  const kept = byId("chat-model").value;
  fill(byId("chat-model"), Object.entries(status.models).map(([name, stage]) => [name, `${name} (stage ${stage})`]));
  if (kept in status.models) byId("chat-model").value = kept;
  byId("choices").hidden = status.label_choices.length === 0;
  byId("choices").textContent = `This task answers with one of: ${status.label_choices.join(", ")}.`;
}
