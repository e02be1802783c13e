// The held-out losses over rounds: a picture, and the same as a table.

import { card, facts, h, note, svg, table } from "./dom.js";
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
  const last = Math.floor(high / step + 1e-9);
  for (let number = Math.ceil(low / step - 1e-9); number <= last; number += 1) {
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
  const content = known(losses).length
    ? [h("figure", {}, picture(losses)),
      note("Held-out loss in nats per token after each round: the thick line is all paths ",
        "together, a thin one each path."),
      h("details", {}, h("summary", {}, "The same as a table"), lossTable(losses, run))]
    : note("No loss is known yet: it is computed when the seed model is made, and after each ",
      "round.");
  return card("loss", "Loss", paceRows.length ? facts(...paceRows) : null, content);
}

function known(losses) {
  if (losses === null) return [];
  return [...losses.overall, ...losses.paths.flat()].filter((each) => each !== null);
}

function picture(losses) {
  const values = known(losses);
  const width = matchMedia("(max-width: 30rem)").matches ? NARROW : WIDE;
  const [first, last] = [losses.versions[0], losses.versions.at(-1)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 0.01) [low, high] = [low - 0.05, high + 0.05];
  const across = (width - LEFT - RIGHT) / Math.max(1, last - first);
  const x = (version) => LEFT + (version - first) * across;
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const line = (name, row) =>
    stretches(losses.versions, row, x, y).map((points) => drawn(name, points));
  const overall = losses.versions
    .map((version, number) => [version, losses.overall[number]])
    .filter(([, value]) => value !== null);
  const end = overall.at(-1);
  return svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": told(overall) },
    ticks(low, high, TICKS).map((value) => [
      svg("line", { class: "tick", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value))]),
    ticks(first, last, 8).filter(Number.isInteger).map((version) =>
      svg("text", { x: x(version), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, version)),
    svg("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "round"),
    losses.paths.map((row) => line("line", row)),
    line("overall", losses.overall),
    end ? svg("text", { class: "end", x: x(end[0]) + 6, y: y(end[1]) + 4 }, loss(end[1])) : null);
}

// Return a stretch of a line; one point of all paths is a dot.
function drawn(name, points) {
  if (points.length > 1) {
    const text = points.map((point) => point.map((each) => each.toFixed(1)).join()).join(" ");
    return svg("polyline", { class: name, points: text });
  }
  return name === "overall" ? svg("circle", { cx: points[0][0], cy: points[0][1], r: 3 }) : null;
}

function told(overall) {
  if (!overall.length) return "Held-out loss of some paths; the table below has the figures";
  const [first, last] = [overall[0], overall.at(-1)];
  return `Held-out loss of all paths: ${loss(first[1])} at round ${first[0]}, `
    + `${loss(last[1])} at round ${last[0]}`;
}

function short(value) {
  return String(Number(value.toPrecision(4)));
}

function lossTable(losses, run) {
  const heads = ["round", "all", ...run.swarm.map((each) => `(${each.experts.join(", ")})`)];
  const rows = losses.versions.map((version, number) => [
    version, loss(losses.overall[number]), ...losses.paths.map((row) => loss(row[number]))]);
  return table("Held-out losses by round", heads, rows.reverse());
}
