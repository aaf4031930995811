// The tab Chat: a conversation whose answers appear as they are made.

import { STAGES, byId, element, events, fill, problem, stoppable, writing } from "./api.js";

const WORDINGS = {
  task: "Asked in the wording of its training.",
  chat: "Asked as a conversation, which is not the wording of its training.",
};
const NEAR_PX = 160; // of the end: then the page follows the answer
let turns = []; // what was said, as requests carry it
let models = {};

const asked = () => byId("chat-prompt");

/** A new message in the log: `body` for its text, `after` for what is to be said of it. */
function message(who, kind) {
  const box = element("div", `message ${kind}`);
  const body = element("p", "text");
  box.append(element("p", "who", who), body);
  byId("chat-empty").hidden = true;
  byId("chat-log").append(box);
  const note = (text) => box.append(element("p", "after", text));
  return { body, note };
}

function showEnd() {
  scrollTo({ top: document.documentElement.scrollHeight });
}

const isNearEnd = () => document.documentElement.scrollHeight - innerHeight - scrollY < NEAR_PX;

/** The request, with `prompt` as its last turn. */
function requestOf(model, prompt) {
  const system = byId("chat-system").value.trim();
  const temperature = byId("chat-temperature").value;
  const messages = [
    ...(system ? [{ role: "system", content: system }] : []),
    ...(byId("chat-together").checked ? turns : []),
    { role: "user", content: prompt },
  ];
  return { model, stream: true, messages, ...(temperature === "" ? {} : { temperature: Number(temperature) }) };
}

async function send(event) {
  event.preventDefault();
  const prompt = asked().value;
  const model = byId("chat-model").value;
  if (!prompt.trim()) return;
  const request = requestOf(model, prompt);
  const talk = turns; // a new chat may begin before the answer ends
  asked().value = "";
  message("You", "user").body.textContent = prompt;
  const answer = message(`${STAGES[models[model]]} (${model})`, "model");
  answer.body.classList.add("waiting");
  showEnd();
  let wording;
  const work = (signal) =>
    events("/v1/chat/completions", request, signal, (event) => {
      const [choice] = event.choices ?? [];
      const follow = isNearEnd();
      wording = event.wording ?? wording;
      answer.body.textContent += choice?.delta.content ?? "";
      if (choice?.finish_reason === "length") answer.note("Cut at the length limit.");
      if (follow) showEnd();
    });
  await writing(byId("chat-log"), async () => {
    const complete = await stoppable(byId("chat-form"), byId("chat-stop"), work);
    answer.body.classList.remove("waiting");
    if (talk !== turns) return;
    end(answer, prompt, complete);
    if (WORDINGS[wording]) answer.note(WORDINGS[wording]);
  });
  const follow = isNearEnd();
  asked().focus({ preventScroll: true });
  if (follow) showEnd();
}

/** Keep the turn for the next request; what was not answered at all is given back to be sent again. */
function end({ body, note }, prompt, complete) {
  const text = body.textContent;
  const stopped = byId("problem").hidden ? "Stopped." : "Not completed.";
  if (!complete) note(stopped);
  else if (!text) note("The model said nothing.");
  if (text) turns.push({ role: "user", content: prompt }, { role: "assistant", content: text });
  else if (!complete && !asked().value) asked().value = prompt;
}

function begin() {
  turns = [];
  problem("");
  byId("chat-log").replaceChildren();
  byId("chat-empty").hidden = false;
  asked().focus();
}

/** Enter sends, Shift+Enter makes a line. */
function enterSends(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!byId("chat-form").querySelector("[type=submit]").disabled) byId("chat-form").requestSubmit();
  }
}

export function startChat() {
  byId("chat-form").addEventListener("submit", send);
  asked().addEventListener("keydown", enterSends);
  // A field in closed details cannot say what is wrong with it.
  byId("chat-temperature").addEventListener("invalid", () => {
    byId("chat-more").open = true;
  });
  byId("chat-new").addEventListener("click", () => {
    byId("chat-stop").click();
    begin();
  });
}

export function showChat(status) {
  // A task with a fixed set of answers has questions, not conversations; the person may want one.
  if (!Object.keys(models).length) byId("chat-together").checked = status.label_choices.length === 0;
  models = status.models;
  const kept = byId("chat-model").value;
  fill(byId("chat-model"), Object.entries(models).map(([name, stage]) => [name, `${STAGES[stage]} (${name})`]));
  if (kept in models) byId("chat-model").value = kept;
  byId("choices").hidden = status.label_choices.length === 0;
  byId("choices").textContent = `This task answers with one of: ${status.label_choices.join(", ")}.`;
}
