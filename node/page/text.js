// Values as text: what other nodes wrote made harmless, counts, sizes, times.

// Controls, what changes the direction of text, what has no width, line breaks, lone surrogates.
const HIDDEN = new RegExp(
  "[\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u115f\\u1160\\u180e\\u200b-\\u200f\\u2028-\\u202e"
    + "\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\ufff0-\\ufffb]"
    + "|[\\u{e0000}-\\u{e0fff}]|\\p{Cs}",
  "gu",
);

// Return a text in which every character is seen: hidden ones are written as escapes.
export function visible(text) {
  return String(text).replace(HIDDEN, (found) => {
    const code = found.codePointAt(0);
    if (code < 0x100) return "\\x" + code.toString(16).padStart(2, "0");
    if (code < 0x10000) return "\\u" + code.toString(16).padStart(4, "0");
    return "\\u{" + code.toString(16) + "}";
  });
}

export function count(number, noun) {
  return `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
}

export function whole(number) {
  return Math.round(number).toLocaleString("en-US");
}

// Return bytes as `4.1 MB`.
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit && bytes < 99.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

// Return bytes per second as `3.2 Mbit/s`, as caps are written.
export function rate(bytesPerSecond) {
  const bits = 8 * bytesPerSecond;
  if (bits < 1000) return `${Math.round(bits)} bit/s`;
  if (bits < 1e6) return `${short(bits / 1e3)} kbit/s`;
  return bits < 1e9 ? `${short(bits / 1e6)} Mbit/s` : `${short(bits / 1e9)} Gbit/s`;
}

function short(number) {
  return number < 9.95 ? number.toFixed(1) : Math.round(number).toString();
}

// Return seconds as `3.1 s`, `4 min`, `2 h 10 min`, `3 d 4 h`.
export function span(seconds) {
  if (seconds < 0) return "0 s";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 119.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

// Return a Unix time as local time; with its day, unless that is the day of `now`.
export function clock(time, now) {
  const at = new Date(1000 * time);
  const hours = at.toLocaleTimeString("en-GB");
  if (at.toDateString() === new Date(1000 * now).toDateString()) return hours;
  const day = at.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short" });
  return `${day} ${hours.slice(0, 5)}`;
}

export function loss(nats) {
  return nats === null || nats === undefined ? "–" : nats.toFixed(3);
}

export function shortPeer(peer) {
  return peer.length > 16 ? `${peer.slice(0, 8)}…${peer.slice(-4)}` : peer;
}

export function shortDigest(hex) {
  return hex.length > 16 ? `${hex.slice(0, 8)}…${hex.slice(-8)}` : hex;
}

// Return the name of a path: the expert that it takes at each level.
export function label(experts) {
  return `(${experts.join(", ")})`;
}
