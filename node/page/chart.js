// The held-out losses over rounds: a picture, and the same as a table.

import { card, facts, h, svg, table } from "./dom.js";
import { loss } from "./text.js";

const WIDE = 600, NARROW = 340; // of a picture; its text is as large as that of the page
const HEIGHT = 260, LEFT = 48, RIGHT = 56, TOP = 12, BOTTOM = 36;
const TICKS = 5; // about

// Return round values from `low` to `high`, about `most` of them.
export function ticks(low, high, most) {
  const rough = Math.max(high - low, 1e-9) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + 1e-9 * step; number += 1) {
    found.push(number * step);
  }
  return found;
}

// Return the stretches of a line without gaps, each a list of [x, y].
export function stretches(versions, values, x, y) {
  const found = [[]];
  values.forEach((value, number) => {
    if (value === null) found.push([]);
    else found.at(-1).push([x(versions[number]), y(value)]);
  });
  return found.filter((each) => each.length);
}

export function lossCard(losses, run, paceRows) {
  const known = losses ? losses.overall.map((value, number) => [losses.versions[number], value])
    .filter(([, value]) => value !== null) : [];
  const values = losses ? [...losses.overall, ...losses.paths.flat()].filter((each) => each !== null) : [];
  const content = values.length
    ? [h("figure", {}, picture(losses, values, known)),
      h("p", { class: "note" }, "Held-out loss in nats per token after each round: the thick line is all paths together, a thin one each path."),
      h("details", {}, h("summary", {}, "The same as a table"), lossTable(losses, run))]
    : h("p", { class: "note" }, "No loss is known yet: it is computed when the seed model is made, and after each round.");
  return card("loss", "Loss", paceRows.length ? facts(...paceRows) : null, content);
}

function picture(losses, values, known) {
  const width = matchMedia("(max-width: 30rem)").matches ? NARROW : WIDE;
  const [first, last] = [losses.versions[0], losses.versions.at(-1)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 0.01) [low, high] = [low - 0.05, high + 0.05];
  const x = (version) => LEFT + ((version - first) / Math.max(1, last - first)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const line = (name, row) => stretches(losses.versions, row, x, y).map((points) => points.length > 1
    ? svg("polyline", { class: name, points: points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ") })
    : name === "overall" ? svg("circle", { cx: points[0][0], cy: points[0][1], r: 3 }) : null);
  const end = known.at(-1);
  const words = known.length
    ? `Held-out loss of all paths: ${loss(known[0][1])} at round ${known[0][0]}, ${loss(end[1])} at round ${end[0]}`
    : "Held-out loss of some paths; the table below has the figures";
  return svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": words },
    ticks(low, high, TICKS).map((value) => [
      svg("line", { class: "tick", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value))]),
    ticks(first, last, 8).filter(Number.isInteger).map((version) =>
      svg("text", { x: x(version), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, String(version))),
    svg("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "round"),
    losses.paths.map((row) => line("line", row)),
    line("overall", losses.overall),
    end ? svg("text", { class: "end", x: x(end[0]) + 6, y: y(end[1]) + 4 }, loss(end[1])) : null);
}

function short(value) {
  return String(Number(value.toPrecision(4)));
}

function lossTable(losses, run) {
  const heads = ["round", "all", ...run.swarm.map((each) => `(${each.experts.join(", ")})`)];
  const rows = losses.versions.map((version, number) => [
    String(version), loss(losses.overall[number]), ...losses.paths.map((row) => loss(row[number]))]);
  return table("Held-out losses by round", heads, rows.reverse());
}
