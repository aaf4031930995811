// The tab Routing: whose habits went into an answer, as bars, layer by layer, and as numbers.
// An expert of the model is a group of people here: it holds what they have in common.

import { STAGES, byId, element, fill, json, problem, writing } from "./api.js";

const HEATS = 5;

/** Whole per cents that add up to what the shares add up to; the largest remainders are rounded up. */
export function percents(shares) {
  const exact = shares.map((share) => share * 100);
  const whole = exact.map((value) => Math.floor(value + 1e-9));
  const missing = Math.round(exact.reduce((a, b) => a + b, 0)) - whole.reduce((a, b) => a + b, 0);
  const order = [...exact.keys()].sort((a, b) => exact[b] - whole[b] - (exact[a] - whole[a]) || a - b);
  for (const index of order.slice(0, Math.max(missing, 0))) whole[index] += 1;
  return whole;
}

/** Mean of rows [S][N], expert by expert. */
function mean(rows) {
  return rows[0].map((_, expert) => rows.reduce((sum, row) => sum + row[expert], 0) / rows.length);
}

/** [layer, its rows]: places of one layer stand together; a place without a number is by itself. */
function byLayer({ sites, weights }) {
  const layers = new Map();
  sites.forEach((site, index) => {
    const layer = /(?<!\w)\d+(?!\w)/.exec(site)?.[0] ?? site;
    layers.set(layer, [...(layers.get(layer) ?? []), weights[index]]);
  });
  return [...layers].map(([layer, rows]) => [layer, mean(rows)]);
}

const group = (index) => `Group ${index + 1}`;
const heat = (weight) => `heat-${Math.min(Math.max(Math.ceil(weight * HEATS), 1), HEATS)}`;

function shaped(share) {
  const made = element("span");
  made.style.setProperty("--share", String(Math.min(Math.max(share, 0), 1)));
  return made;
}

/** The whole answer: one bar a group, the largest first. */
function summary(shares) {
  const told = percents(shares);
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b);
  const box = element("section", "card", "", { "aria-labelledby": "routing-sum" });
  const [first, second] = order;
  const also = second === undefined ? "" : `, then of group ${second + 1} (${told[second]}%)`;
  const list = element("ol", "groups");
  for (const index of order) {
    const line = element("li", index === first ? "most" : "");
    const track = element("span", "track", "", { "aria-hidden": "true" });
    track.append(shaped(shares[index]));
    line.append(element("span", "", group(index)), track, element("span", "share", `${told[index]}%`));
    list.append(line);
  }
  box.append(
    element("h3", "", "Groups whose habits were used", { id: "routing-sum" }),
    element("p", "lead-answer", `Most of all, habits of group ${first + 1} (${told[first]}%)${also}.`),
    list,
    element("p", "help", "Groups have numbers, not names: training found them from what people have in common. Nobody is in only one."),
  );
  return box;
}

/** From the first layer to the last: a row of small bars for every group. */
function picture(layers, count) {
  const box = element("section", "card", "", { "aria-labelledby": "routing-layers" });
  const rows = element("div", "layers");
  const top = Math.max(...layers.flatMap(([, shares]) => shares)); // the highest bar fills its row
  for (let index = 0; index < count; index += 1) {
    const row = element("div", "row");
    const each = layers.map(([layer, shares]) => `layer ${layer} ${Math.round(shares[index] * 100)}%`);
    const strip = element("div", "strip", "", { role: "img", "aria-label": `${group(index)}: ${each.join(", ")}` });
    strip.append(...layers.map(([, shares]) => shaped(shares[index] / top)));
    row.append(element("span", "", group(index)), strip);
    rows.append(row);
  }
  const ends = element("p", "ends help");
  ends.append(element("span", "", "reads the question"), element("span", "", "gives the answer"));
  rows.append(ends);
  box.append(
    element("h3", "", "From question to answer", { id: "routing-layers" }),
    element("p", "muted", "The model works in layers, from left to right, and mixes the groups anew in each: the higher the bar, the more of that group."),
    rows,
  );
  return box;
}

/** Rows are places in the model, columns groups; a cell's ground is stronger the more it holds. */
function numbers({ stage, sites, weights }) {
  const box = element("details", "numbers card");
  const table = element("table");
  table.append(element("caption", "visually-hidden", `Mean weight of each group, stage ${stage}`));
  const head = element("tr");
  head.append(element("th", "", "Place in the model", { scope: "col" }));
  for (const index of weights[0].keys()) head.append(element("th", "n", group(index), { scope: "col" }));
  const top = element("thead");
  top.append(head);
  const body = element("tbody");
  sites.forEach((site, row) => {
    const line = element("tr");
    line.append(element("th", "", site, { scope: "row" }));
    for (const weight of weights[row]) line.append(element("td", `weight ${heat(weight)}`, weight.toFixed(2)));
    body.append(line);
  });
  table.append(top, body);
  const scroll = element("div", "scroll", "", { role: "region", "aria-label": "All numbers", tabindex: "0" });
  scroll.append(table);
  box.append(element("summary", "", "All numbers"), scroll);
  return box;
}

async function show(event) {
  event.preventDefault();
  const request = { prompt: byId("routing-prompt").value, stage: byId("routing-stage").value };
  const [submit, result, empty] = [byId("routing-form").querySelector("[type=submit]"), byId("routing-result"), byId("routing-empty")];
  if (!request.prompt.trim() || submit.getAttribute("aria-disabled") === "true") return;
  problem("");
  submit.setAttribute("aria-disabled", "true"); // disabled, it would lose the focus
  result.hidden = true;
  empty.hidden = false;
  empty.textContent = "Asking…";
  try {
    const found = await json("/api/routing", request);
    await writing(result, async () => {
      const shares = mean(found.weights);
      result.replaceChildren(summary(shares), picture(byLayer(found), shares.length), numbers(found));
    });
    [result.hidden, empty.hidden] = [false, true];
  } catch (error) {
    empty.textContent = "Nothing to show.";
    problem(error.message);
  } finally {
    submit.removeAttribute("aria-disabled");
  }
}

export function startRouting() {
  byId("routing-form").addEventListener("submit", show);
}

export function showRouting(status) {
  // Stage 1 is one adapter for everybody: it has no experts to choose from.
  const stages = status.stages.filter((stage) => stage !== "1").reverse();
  fill(byId("routing-stage"), stages.map((stage) => [stage, `${STAGES[stage]} (stage ${stage})`]));
}
