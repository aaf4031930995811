// Talking to the server this page came from: the token, JSON, and streams of events.
// Nothing here makes markup of text: `element` sets textContent, and the server's policy forbids more.

const KEY = "proper-token";

/** Take the token out of the address, where it would stay in the history. */
export function takeToken() {
  const match = /^#token=(.+)$/.exec(location.hash);
  if (match) {
    sessionStorage.setItem(KEY, match[1]);
    history.replaceState(null, "", location.pathname);
  }
}

// What the page can say better than the server, which knows of no page; by OpenAI's code of the error.
const SAID_HERE = {
  context_length_exceeded:
    "This conversation is longer than your model reads. Begin a new chat, or do not send earlier messages along (Options).",
};

const refusal = (told, otherwise) => new Error(SAID_HERE[told?.code] ?? told?.message ?? otherwise);

/** fetch with the token; throws Error with the server's message for anything but success. */
async function ask(path, body, signal) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  const options = { headers, signal, cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is proper serve still running?");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    throw new Error("This page has no valid token. Open the address that proper serve printed.");
  }
  const told = await response.json().catch(() => null);
  throw refusal(told?.error, `The server answered ${response.status}.`);
}

/** JSON of a GET, or of a POST if there is a body. */
export async function json(path, body) {
  return (await ask(path, body)).json();
}

/** Call onEvent with every event of a stream. Throws if the stream ends without [DONE]. */
export async function events(path, body, signal, onEvent) {
  const response = await ask(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The answer was cut off.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw refusal(event.error);
      onEvent(event);
    }
  }
}

export const byId = (id) => document.getElementById(id);

/** A new element: tag, class, text, attributes. */
export function element(tag, className = "", text = "", attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Fill a select with [value, label] pairs. */
export function fill(select, options) {
  select.replaceChildren(...options.map(([value, label]) => element("option", "", label, { value })));
}

/** Show what went wrong, or hide it with an empty text. */
export function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

/** Run work with a stop button; errors are shown, stopping is none. Returns whether it succeeded. */
export async function stoppable(form, stop, work) {
  const submit = form.querySelector("[type=submit]");
  const controller = new AbortController();
  const abort = () => controller.abort();
  problem("");
  stop.disabled = false;
  hand(submit, stop);
  submit.disabled = true;
  stop.addEventListener("click", abort);
  try {
    await work(controller.signal);
    return true;
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
    return false;
  } finally {
    stop.removeEventListener("click", abort);
    submit.disabled = false;
    hand(stop, submit);
    stop.disabled = true;
  }
}

/** Give the focus on from a button that is about to be disabled: it would be lost. */
function hand(from, to) {
  if (document.activeElement === from) to.focus();
}

/** A live region's text is read out when it is complete, not piece by piece. */
export async function writing(region, work) {
  region.setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    region.setAttribute("aria-busy", "false");
  }
}

export const STAGES = { 1: "Everybody", 2: "People like you", 3: "Yours" };

/** "1 word", "2 words". */
export const counted = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;
