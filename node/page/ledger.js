// The ledger of a run, a page at a time, and its losses: what is asked for beside the status.

import { get } from "./api.js";
import { card, foreign, h, named, note, table } from "./dom.js";
import { shortDigest, shortPeer, whole } from "./text.js";

const PAGE = 25; // records
const PAUSE = 5000; // ms at least between two questions of one kind: a fast run has many records

// What belongs to one run beside its status; asks again as its ledger grows.
export class Followed {
  constructor(onChange) {
    this.onChange = onChange;
    this.run = "";
    this.losses = null;
    this.page = null;
    this.first = null; // null: the newest page
    this.asked = new Map();
  }

  // Note that the status tells of a run with so many records.
  see(run) {
    if (run.id !== this.run) {
      this.run = run.id;
      this.losses = this.page = this.first = null;
      this.asked.clear();
    }
    this.fetchOnce("losses", this.losses?.records !== run.records, async () => {
      this.losses = await get(`/v1/losses?run=${run.id}`);
    });
    const stale = this.page === null || (this.first === null && this.page.total !== run.records);
    this.fetchOnce("page", stale, () => this.read());
  }

  async read() {
    const first = this.first === null ? "" : `&first=${this.first}`;
    this.page = await get(`/v1/records?run=${this.run}&most=${PAGE}${first}`);
  }

  fetchOnce(kind, stale, fetchIt) {
    const last = this.asked.get(kind) ?? -Infinity;
    if (!stale || performance.now() < last + PAUSE) return;
    this.asked.set(kind, performance.now());
    const run = this.run;
    // Nothing is told of a failure: the stream tells of trouble.
    fetchIt().then(() => run === this.run && this.onChange(), () => {});
  }

  turn(first) {
    const last = Math.max(0, this.page.total - PAGE);
    this.first = first >= last ? null : Math.max(0, first);
    this.read().then(this.onChange, () => {});
  }

  handle(action) {
    const begin = this.page?.records[0]?.number ?? 0;
    if (action === "oldest") this.turn(0);
    if (action === "older") this.turn(begin - PAGE);
    if (action === "newer") this.turn(begin + PAGE);
    if (action === "newest") this.turn(Infinity);
  }

  card() {
    const page = this.page;
    if (!page || !page.records.length) {
      return card("ledger", "Ledger", note(page ? "It has no record yet." : "It is being read."));
    }
    const [first, last] = [page.records[0].number, page.records.at(-1).number];
    const [atStart, atEnd] = [first === 0, last + 1 >= page.total];
    const button = (action, words, off) =>
      h("button", { type: "button", "data-ledger": action, disabled: off }, words);
    return card("ledger", "Ledger",
      table("Records of the ledger", ["record", "entry", "names", "digest", "term", "signer"],
        [...page.records].reverse().map(row)),
      h("div", { class: "pages" },
        button("newest", "Newest", atEnd), button("newer", "Newer", atEnd),
        button("older", "Older", atStart), button("oldest", "Oldest", atStart),
        h("span", {}, `records ${whole(first)} to ${whole(last)} of ${whole(page.total)}`)));
  }
}

function row(record) {
  return [
    whole(record.number),
    h("div", { class: "wrap" }, foreign(record.text)),
    record.digests.map((each) => named(shortDigest(each), each)),
    named(shortDigest(record.digest), record.digest),
    String(record.term),
    named(shortPeer(record.signer), record.signer),
  ];
}
