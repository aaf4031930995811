// The tab Routing: which expert answers where, as a table of numbers that is also a heat map.

import { byId, element, fill, json, problem } from "./api.js";

/** Rows are sites, columns experts; CSS shades a cell by its --weight. */
function table({ stage, sites, weights }) {
  const made = element("table");
  made.append(element("caption", "", `Mean weight of each expert, stage ${stage}`));
  const head = element("tr");
  head.append(element("th", "", "Place in the model", { scope: "col" }));
  for (const index of (weights[0] ?? []).keys()) {
    head.append(element("th", "", `Expert ${index + 1}`, { scope: "col" }));
  }
  const top = element("thead");
  top.append(head);
  const body = element("tbody");
  sites.forEach((site, row) => {
    const line = element("tr");
    line.append(element("th", "", site, { scope: "row" }));
    for (const weight of weights[row]) {
      const cell = element("td", "weight", weight.toFixed(2));
      cell.style.setProperty("--weight", String(Math.min(Math.max(weight, 0), 1)));
      line.append(cell);
    }
    body.append(line);
  });
  made.append(top, body);
  return made;
}

async function show(event) {
  event.preventDefault();
  const submit = byId("routing-form").querySelector("[type=submit]");
  const request = { prompt: byId("routing-prompt").value, stage: byId("routing-stage").value };
  problem("");
  submit.disabled = true;
  try {
    byId("routing-result").replaceChildren(table(await json("/api/routing", request)));
  } catch (error) {
    problem(error.message);
  } finally {
    submit.disabled = false;
  }
}

export function startRouting() {
  byId("routing-form").addEventListener("submit", show);
}

export function showRouting(status) {
  // Stage 1 is one adapter for everybody: it has no experts to choose from.
  const stages = status.stages.filter((stage) => stage !== "1").reverse();
  fill(byId("routing-stage"), stages.map((stage) => [stage, `Stage ${stage}`]));
}
