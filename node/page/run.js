// The parts of the page that tell of one run: paths, router, members.

import { card, facts, foreign, frame, h, named, note, table } from "./dom.js";
import { clock, count, label, loss, shortDigest, shortPeer, span, whole } from "./text.js";

const MOST_COLUMNS = 12; // of a matrix: wider grids are shown as a list

export function pathsCard(status, run) {
  const paths = run.swarm;
  const [down, across] = shape(paths);
  const content = across && across <= MOST_COLUMNS
    ? matrix(paths, down, across, status.peer) : list(paths, status.peer);
  return card("paths", "Paths", content, told(status, run));
}

// Return the numbers of experts of a grid of two levels; [0, 0] for another shape.
export function shape(paths) {
  if (!paths.length || paths.some((each) => each.experts.length !== 2)) return [0, 0];
  const most = (level) => 1 + Math.max(...paths.map((each) => each.experts[level]));
  return most(0) * most(1) === paths.length ? [most(0), most(1)] : [0, 0];
}

function matrix(paths, down, across, me) {
  const at = new Map(paths.map((each) => [each.experts.join(), each]));
  const heads = [...Array(across).keys()].map((b) => h("th", { scope: "col" }, b));
  const rows = [...Array(down).keys()].map((a) =>
    h("tr", {}, h("th", { scope: "row" }, a),
      [...Array(across).keys()].map((b) => h("td", {}, cell(at.get(`${a},${b}`), me, false)))));
  return frame("Grid of paths",
    h("table", { class: "matrix" },
      h("caption", { class: "unseen" },
        "Paths: experts of the first level down, of the second across"),
      h("thead", {}, h("tr", {}, h("td", { class: "corner" }, "expert"), heads)),
      h("tbody", {}, rows)));
}

function list(paths, me) {
  return frame("List of paths",
    h("ul", { class: "grid" }, paths.map((each) => h("li", {}, cell(each, me, true)))));
}

function cell(path, me, withName) {
  const mine = path.holder === me;
  const other = path.holder ? named(shortPeer(path.holder), path.holder) : "nobody";
  return h("div", { class: `path ${path.state}${mine ? " mine" : ""}` },
    withName ? h("div", {}, h("b", {}, label(path.experts))) : null,
    h("div", {}, h("b", {}, path.state), ` · round ${path.round}`),
    h("div", {}, `loss ${loss(path.loss)}`),
    h("div", {}, mine ? "this node" : other));
}

function told(status, run) {
  if (run.swarm_time === null) return note("Others' work: not told by the scheduler yet.");
  const late = status.time - run.swarm_time;
  return late >= 60 ? note(`Others' work: as of ${span(late)} ago.`) : null;
}

export function routerCard(status, run) {
  const router = run.router;
  const marks = { verified: "good", refuted: "bad", unverifiable: "wait", unverified: "wait" };
  const verdict = h("span", { class: `mark ${marks[run.verdict] ?? ""}` }, run.verdict);
  const rows = [
    ["verdict here", [verdict, run.stage ? [" at ", foreign(run.stage)] : null]],
    ["reason", router?.reason ? foreign(router.reason) : null],
    ["others", `${run.verified} verified, ${run.refuted} refuted`],
    ["owner", named(shortPeer(run.owner), run.owner)],
    ["run id", named(shortDigest(run.id), run.id)],
  ];
  if (router) {
    const author = named(shortPeer(router.author), router.author);
    rows.push(["router", [foreign(router.kind), `, epoch ${router.epoch}, signed by `, author]]);
  }
  return card("router", "Router",
    facts(...rows),
    router ? [h("h3", {}, "Digests of its stages"), stageTable(router)] : null,
    router?.receipts.length ? [h("h3", {}, "Receipts"), receiptTable(router, status.peer)] : null);
}

function stageTable(router) {
  const rows = router.stages.map((each) =>
    [foreign(each.stage), h("code", {}, foreign(each.digest))]);
  return table("Digests of the router's stages", ["stage", "digest"], rows);
}

function receiptTable(router, me) {
  const rows = router.receipts.map((each) => [
    [named(shortPeer(each.peer), each.peer), each.peer === me ? " (this node)" : null],
    foreign(each.outcome)]);
  return table("Receipts of peers", ["peer", "says"], rows);
}

export function pace(status, run) {
  const found = run.pace;
  if (!found) return [];
  const perHour = found.per_hour === null ? "" : found.per_hour.toFixed(1);
  const ends = found.ends === null ? ""
    : `${clock(found.ends, status.time)} (in ${span(found.ends - status.time)})`;
  return [
    ["rounds done", `${found.done.toFixed(1)} of ${run.rounds}, in the mean of all paths`],
    ["pace", perHour ? `${perHour} rounds per hour` : "not known yet"],
    ["ends about", ends],
  ];
}

export function scheduleCard(status, run) {
  const found = run.schedule;
  if (!found) return null;
  const held = run.swarm.filter((each) => each.state === "leased").length;
  const blocks = found.blocks.map((each) => h("div", { class: "bad-text" }, foreign(each)));
  return card("schedule", "The run, as this node schedules it",
    facts(
      ["what blocks", blocks.length ? blocks : "nothing"],
      ["members", count(found.count, "peer")],
      ["throughput", `${whole(found.tokens_per_second)} tokens/s`],
      ["paths held", `${held} of ${run.swarm.length}`],
      ...pace(status, run)),
    h("h3", {}, "Members, leases and queue"),
    found.members.length ? memberTable(status, found) : note("Nobody works for the run yet."));
}

function memberTable(status, schedule) {
  const rows = schedule.members.flatMap((member) => {
    const leases = member.leases.length ? member.leases : [null];
    return leases.map((lease) => [
      named(shortPeer(member.peer), member.peer),
      lease ? [foreign(lease.work), lease.in_hand ? " (next)" : ""]
        : `waits, place ${member.place}`,
      lease && lease.tokens_per_second ? `${whole(lease.tokens_per_second)} tok/s` : "–",
      lease ? loss(lease.loss) : "–",
      lease ? span(status.time - lease.since) : "–",
      lease ? span(lease.until - status.time) : "–",
      member.seconds === null ? "–" : span(member.seconds),
      member.proven ? "proven" : "new",
    ]);
  });
  const heads = ["peer", "work", "speed", "loss", "for", "lease left", "per path", "standing"];
  return [table("Members", heads, rows),
    schedule.count > schedule.members.length
      ? note(`and ${whole(schedule.count - schedule.members.length)} more`) : null];
}
