// The page of a node: shows its status document, live, and passes on three orders.

import { Watch, hasToken, keepToken, post, takeToken, tokenIn } from "./api.js";
import { lossCard } from "./chart.js";
import { h, note, update } from "./dom.js";
import { Followed } from "./ledger.js";
import { eventsCard, foot, head, networkCard, nodeCard, offersCard } from "./overview.js";
import { pace, pathsCard, routerCard, scheduleCard } from "./run.js";
import { clock, span, visible } from "./text.js";

const at = (id) => document.getElementById(id);
const HOUR = 3600; // s

let status = null;
let chosen = ""; // the run that is shown, if the node has several
let due = false; // a redraw is asked for

const followed = new Followed(redraw);
const watch = new Watch(seen, trouble);

// Draw at the next frame, however often it is asked for; a hidden tab has no frames.
function redraw() {
  if (due || document.hidden) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    if (status !== null) draw();
  });
}

function seen(found) {
  status = found;
  const run = shownRun();
  if (run) followed.see(run);
  redraw();
}

function shownRun() {
  return status.runs.find((each) => each.id === chosen) ?? status.runs[0] ?? null;
}

function draw() {
  const run = shownRun();
  document.title = visible(`${status.state}: ${status.run?.name ?? "no run"} – dipaco-node`);
  update(at("head"), head(status));
  update(at("orders"), orders());
  at("orders").hidden = false;
  update(at("content"),
    runChoice(run),
    run ? scheduleCard(status, run) : null,
    offersCard(status),
    h("div", { class: "columns" },
      h("div", {}, nodeCard(status, run),
        run ? [pathsCard(status, run), routerCard(status, run)] : null),
      h("div", {},
        run ? lossCard(followed.losses, run, run.schedule ? [] : pace(status, run)) : null,
        networkCard(status), eventsCard(status))),
    run ? followed.card() : null);
  update(at("foot"), foot(status));
}

function runChoice(run) {
  if (status.runs.length < 2) return null;
  const options = status.runs.map((each) =>
    h("option", { value: each.id, selected: each.id === run.id },
      `${each.name} (${each.id.slice(0, 8)})`));
  return h("p", {}, h("label", { for: "run" }, "Run "), h("select", { id: "run" }, options));
}

// ------------------------------------------------------------------ orders

function orders() {
  if (!status.trains) {
    return [note("This node trains nothing that could pause. To end it: ",
      h("code", {}, "dipaco-node stop"))];
  }
  const mode = status.order.mode;
  const paused = mode !== "runs" && mode !== "finishing";
  const button = (order, words, off) =>
    h("button", { type: "button", "data-order": order, disabled: off }, words);
  return [
    button("hour", "Pause for 1 h", false),
    button("pause", "Pause until I resume", paused && status.order.until === null),
    button("finish", "Finish, then pause", paused || mode === "finishing"),
    button("resume", "Resume", mode === "runs"),
  ];
}

async function order(name) {
  const calls = {
    hour: () => post("/v1/pause", { until: Date.now() / 1000 + HOUR }),
    pause: () => post("/v1/pause", {}),
    finish: () => post("/v1/finish", {}),
    resume: () => post("/v1/resume", {}),
  };
  try {
    say(ordered(await calls[name]()));
  } catch (fault) {
    say(fault.message);
    if (fault.status === 401) trouble(fault, null);
  }
}

function ordered(answer) {
  if (answer.mode === "runs") return "The node works again.";
  if (answer.mode === "finishing") {
    return "The node takes no further lease, and pauses when the one in hand has ended.";
  }
  return answer.until === null ? "The node is paused until you resume it."
    : `The node is paused until ${clock(answer.until, Date.now() / 1000)}.`;
}

function say(text) {
  at("answer").textContent = visible(text);
}

// ------------------------------------------------------------------ the line to the node

let lostAt = 0;

function trouble(fault, seconds) {
  at("token").hidden = fault?.status !== 401;
  if (fault === null) {
    lostAt = 0;
    at("line").textContent = "";
  } else if (fault.status === 401) {
    lostAt = 0;
    at("line").textContent = "";
    at("why").textContent = hasToken()
      ? "The token of this tab is not, or no longer, that of the node."
      : "Without it nobody on this machine can see or steer the node.";
    at("pasted").value = "";
    status = null;
    for (const id of ["orders", "content", "foot"]) update(at(id), []);
    update(at("head"), h("h1", {}, "dipaco-node"));
  } else {
    lostAt = lostAt || Date.now() / 1000;
    const since = clock(lostAt, Date.now() / 1000);
    at("line").textContent = visible(`${fault.message} (since ${since}); `)
      + `next try in ${span(seconds)}.` + (status ? " What stands below is as it was then." : "");
  }
}

function begin() {
  takeToken();
  if (hasToken()) watch.start();
  else trouble({ status: 401 }, null);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("button");
  if (target?.dataset.order) order(target.dataset.order);
  if (target?.dataset.ledger) followed.handle(target.dataset.ledger);
});
document.addEventListener("change", (event) => {
  if (event.target.id !== "run") return;
  chosen = event.target.value;
  seen(status);
});
at("token").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(tokenIn(at("pasted").value));
  watch.start();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) watch.stop();
  else if (hasToken()) watch.start();
});
window.addEventListener("hashchange", () => {
  if (takeToken()) watch.start();
});
begin();
