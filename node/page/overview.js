// The parts of the page that tell of this node: state and reason, work, network, peers, events.

import { card, facts, foreign, h, named, note, table } from "./dom.js";
import { clock, count, loss, rate, shortPeer, size, span, whole } from "./text.js";

const MARKS = {
  training: "good", serving: "good", fetching: "good", verifying: "wait", starting: "wait",
  connecting: "wait", choosing: "wait", waiting: "wait", paused: "rest", stopping: "rest",
  refused: "bad",
};

// Return the head: the state and its reason come first.
export function head(status) {
  const [first, ...others] = status.reasons.length ? status.reasons : [status.reason];
  const run = status.run;
  const round = run?.finished ? "finished" : `round ${run?.round} of ${run?.rounds}`;
  return [
    h("h1", {}, "dipaco-node", run ? [" · ", foreign(run.name)] : []),
    h("p", { class: "state" },
      h("span", { class: `mark ${MARKS[status.state] ?? ""}` }, status.state), foreign(first.text)),
    first.cure ? h("p", { class: "cure" }, foreign(first.cure)) : null,
    first.until ? h("p", { class: "more" }, `until ${clock(first.until, status.time)}`) : null,
    others.length
      ? h("ul", { class: "more" },
        others.map((each) => h("li", {}, "also: ", foreign(reasonText(each)))))
      : null,
    h("p", { class: "run" }, run ? ["run ", foreign(run.name), ", ", round] : "no run yet",
      `, since ${clock(first.since, status.time)}, up ${span(status.uptime_s)}`),
  ];
}

function reasonText(reason) {
  return reason.cure ? `${reason.text}; ${reason.cure}` : reason.text;
}

export function nodeCard(status, run) {
  const task = status.task;
  const left = run?.lease_until ? span(run.lease_until - status.time) : "";
  const rows = [
    ["device", status.device ? foreign(status.device.text) : "trains nothing"],
    ["temperature", temperature(status.device)],
    ["work", task ? workText(task) : status.trains ? "none now" : null],
    ["progress", task && task.total ? progress(task) : null],
    ["speed", task?.tokens_per_second ? `${whole(task.tokens_per_second)} tokens/s` : null],
    ["loss", task && task.loss !== null ? `${loss(task.loss)} (training)` : null],
    ["lease", left ? `${left} left without a heartbeat` : null],
    ["queue", run?.place ? `place ${run.place} of ${run.places}` : null],
  ];
  return card("node", "This node",
    facts(...rows),
    h("h3", {}, "Contribution since the first start"),
    contribution(status),
    run ? note("Everybody's work, from the ledger: ", h("code", {}, "dipaco-node credits")) : null,
    h("h3", {}, "Machine"),
    facts(
      ["memory", memoryText(status.memory)],
      ["cache", status.cache.measured === null ? "not measured yet"
        : `${size(status.cache.bytes)} of ${size(status.cache.max)}`]));
}

function contribution(status) {
  const totals = status.totals;
  const traffic = ["traffic", `${size(totals.sent)} sent, ${size(totals.received)} received`];
  if (!status.trains) return facts(traffic);
  const improvement = totals.improvement.toFixed(3);
  return facts(
    ["results", `${whole(totals.accepted)} accepted, ${whole(totals.refused)} refused`],
    ["trained", `${count(totals.tokens, "token")} in ${span(totals.seconds)}`],
    ["improvement", totals.improvement > 0
      ? `${improvement} nats per token off the paths' held-out loss` : null],
    traffic);
}

function temperature(device) {
  if (!device || device.celsius === null) return null;
  return `${Math.round(device.celsius)} °C, no work above ${device.max_celsius} °C`;
}

function workText(task) {
  const where = task.kind === "derive" ? "" : ` path ${task.path} round ${task.round}`;
  return foreign(`${task.kind}${where}: ${task.stage}`);
}

function progress(task) {
  const done = task.unit === "bytes" ? `${size(task.done)} of ${size(task.total)}`
    : `${whole(task.done)} of ${whole(task.total)} ${task.unit}`;
  return [done, bar(task.done, task.total, "progress of the work")];
}

function bar(value, max, label) {
  return h("progress", { value: Math.min(value, max), max, "aria-label": label });
}

function memoryText(memory) {
  const worker = memory.worker ? `, worker ${size(memory.worker)}` : "";
  return `daemon ${size(memory.daemon)}${worker}`;
}

export function networkCard(status) {
  const net = status.network;
  const today = net.daily_quota
    ? [`${size(net.today)} of ${size(net.daily_quota)}`,
      bar(net.today, net.daily_quota, "of the daily quota")]
    : `${size(net.today)}, no quota`;
  const addresses = net.listen.map((each) => h("div", {}, foreign(each.split("/p2p/")[0])));
  return card("network", "Network",
    facts(
      ["peers", whole(net.peers)],
      ["up", capped(net.up, net.max_up, "up")],
      ["down", capped(net.down, net.max_down, "down")],
      ["today", today],
      ["since start", `${size(net.sent)} sent, ${size(net.received)} received`],
      ["listens at", addresses.length ? addresses : "no address"]),
    h("h3", {}, "Peers"),
    status.peers.length ? peerTable(status) : note("No peer is connected."));
}

function capped(now, cap, name) {
  if (!cap) return `${rate(now)}, no cap`;
  return [`${rate(now)} of ${rate(cap)}`, bar(now, cap, `of the cap ${name}`)];
}

function peerTable(status) {
  const rows = status.peers.map((peer) => [
    named(shortPeer(peer.id), peer.id),
    peer.address ? foreign(peer.address) : "–",
    peer.rtt_ms === null ? "–" : `${peer.rtt_ms.toFixed(1)} ms`,
    `${size(peer.sent)} / ${size(peer.received)}`,
    peer.since === null ? "–" : span(status.time - peer.since),
  ]);
  const heads = ["peer", "address", "round trip", "sent / received", "for"];
  return table("Connected peers", heads, rows);
}

export function offersCard(status) {
  if (status.run || !status.offers.length) return null;
  const rows = status.offers.map((each) => [
    foreign(each.name),
    named(each.id.slice(0, 8), each.id),
    named(shortPeer(each.owner), each.owner),
    each.over ? "over" : each.answers ? "yes" : "no",
    `${each.verified} / ${each.refuted}`,
  ]);
  const heads = ["run", "id", "owner", "scheduler answers", "verified / refuted"];
  return card("offers", "Runs on offer", table("Runs that peers offer", heads, rows));
}

export function eventsCard(status) {
  const items = [...status.events].reverse().map((each) =>
    h("li", {},
      h("time", { datetime: new Date(1000 * each.time).toISOString() },
        clock(each.time, status.time)),
      h("span", {}, foreign(`${each.code}: ${each.text}`))));
  return card("events", "Last events", items.length ? h("ol", {}, items) : note("None yet."));
}

export function foot(status) {
  return ["dipaco-node ", foreign(status.version),
    status.name ? [" · ", foreign(status.name)] : null,
    " · peer ", h("code", {}, foreign(status.peer)), " · home ", foreign(status.home)];
}
