// The page's frame: the token, the tabs, and the status line.

import { byId, json, problem, takeToken } from "./api.js";
import { showChat, startChat } from "./chat.js";
import { showCompare, startCompare } from "./compare.js";
import { followJob, loadItems, showForget, startForget } from "./forget.js";
import { showRouting, startRouting } from "./routing.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const current = () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true");

function select(tab) {
  problem("");
  for (const other of tabs) {
    const on = other === tab;
    other.setAttribute("aria-selected", String(on));
    other.tabIndex = on ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !on;
  }
  if (tab.id === "tab-forget") loadItems();
}

/** Arrows, Home and End move between tabs, as the ARIA practices say. */
function move(event) {
  const at = tabs.indexOf(event.currentTarget);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = tabs[(to + tabs.length) % tabs.length];
  tab.focus();
  select(tab);
}

/** Views once there is a connection; before, what to do to have one. */
function showConnected(connected) {
  byId("away").hidden = connected;
  byId("tabs").hidden = !connected;
  byId(current().getAttribute("aria-controls")).hidden = !connected;
}

async function refresh() {
  try {
    const status = await json("/api/status");
    const state = status.adapted ? "adapted to you" : "not adapted yet";
    const release = status.bundle_id.slice(0, 16); // as commands print it
    byId("status").textContent = `Task ${status.task}, ${state}, release ${release}.`;
    showChat(status);
    showCompare(status);
    showRouting(status);
    showForget(status);
    showConnected(true);
    return status;
  } catch (error) {
    byId("status").textContent = "Not connected.";
    showConnected(false);
    problem(error.message);
    return null;
  }
}

async function start() {
  takeToken();
  problem("");
  const status = await refresh();
  if (status?.forget.state === "running") {
    await followJob(status.forget).catch((error) => problem(error.message));
  }
}

for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", move);
}
startChat();
startCompare();
startRouting();
startForget();
byId("forget").addEventListener("changed", refresh);
byId("again").addEventListener("click", start);
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) start(); // and not for the link that skips to the view
});
start();
