// Elements, and their update in place: focus, selection and what is folded open stay.
// Text is set as text alone: nothing that a node or a peer sends is read as markup.

import { visible } from "./text.js";

// Return an element. `attributes`: null and false are left out. Children: elements, texts, lists.
export function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : visible(value));
    }
  }
  element.append(...shown(children));
  return element;
}

// Return the children that are there; whoever wrote a text, its hidden characters are seen.
function shown(children) {
  return children
    .flat(Infinity)
    .filter((each) => each !== null && each !== undefined && each !== false)
    .map((each) => (each instanceof Node ? each : visible(each)));
}

// Return a text that others wrote: whatever its direction, it turns no text beside it.
export function foreign(text) {
  return h("bdi", {}, text);
}

// Return a long name shortened; it is whole on pointing at it.
export function named(short, whole) {
  return h("code", { title: whole }, foreign(short));
}

// Make the children of `parent` equal to `wanted`, keeping those that are the same element.
export function update(parent, ...wanted) {
  const fresh = document.createElement("div");
  fresh.append(...shown(wanted));
  morphChildren(parent, fresh);
}

function morphChildren(old, fresh) {
  const wanted = [...fresh.childNodes];
  wanted.forEach((each, number) => {
    const there = old.childNodes[number];
    if (there === undefined) old.append(each);
    else if (!morph(there, each)) there.replaceWith(each);
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}

// Make `there` equal to `fresh`; returns false if they are not of one kind.
function morph(there, fresh) {
  if (there.nodeType !== fresh.nodeType || there.nodeName !== fresh.nodeName) return false;
  if (there.nodeType === Node.TEXT_NODE) {
    if (there.data !== fresh.data) there.data = fresh.data;
    return true;
  }
  if (there.id !== fresh.id) return false;
  for (const { name } of [...there.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") there.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  }
  morphChildren(there, fresh);
  return true;
}

// Return a part of the page: a heading and what stands below it.
export function card(id, title, ...content) {
  return h(
    "section",
    { class: "card", id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title),
    ...content,
  );
}

// Return rows of a name and a value; rows without a value are left out.
export function facts(...rows) {
  const found = rows.filter((row) => row && row[1] !== null && row[1] !== "");
  const row = ([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  return h("dl", {}, found.map(row));
}

// Return words of less weight.
export function note(...words) {
  return h("p", { class: "note" }, ...words);
}

// Return a table in a frame that scrolls by itself, also by keyboard.
export function table(caption, heads, rows) {
  const head = heads.map((each) => h("th", { scope: "col" }, each));
  const body = rows.map(([first, ...others]) =>
    h("tr", {}, h("th", { scope: "row" }, first), others.map((each) => h("td", {}, each))),
  );
  return frame(
    caption,
    h("table", {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, head)),
      h("tbody", {}, body)),
  );
}

// Return a frame that scrolls by itself, also by keyboard.
export function frame(label, content) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, content);
}
