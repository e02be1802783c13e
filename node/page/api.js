// The node's API: the token, requests, and the stream of its status.

const KEY = "dipaco-token";
const FIRST_PAUSE = 1000; // ms before the stream is asked for again; doubles
const MAX_PAUSE = 30000;
const SILENCE = 40000; // ms without a byte: the node sends something every 15 s

export class Fault extends Error {
  constructor(status, text) {
    super(text);
    this.status = status; // 0: nobody answers
  }
}

// Take the token out of an address or a text that a person pasted; empty: there is none.
export function tokenIn(text) {
  const found = text.includes("#") ? text.slice(text.indexOf("#") + 1) : text;
  try {
    return decodeURIComponent(found.trim());
  } catch {
    return "";
  }
}

// Move the token of this page's address into the tab's own storage; returns whether there was one.
export function takeToken() {
  const token = tokenIn(location.hash);
  if (token.length < 16) return false;
  keepToken(token);
  history.replaceState(null, "", location.pathname);
  return true;
}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

// Ask the node; returns its answer, or throws a Fault with its words.
export async function ask(method, target, body, signal) {
  const token = sessionStorage.getItem(KEY) ?? "";
  const headers = { Authorization: `Bearer ${token}` };
  let answer;
  try {
    answer = await fetch(target, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Fault(0, "the node does not answer");
  }
  if (!answer.ok) {
    const fault = await answer.json().catch(() => ({}));
    throw new Fault(answer.status, fault.error ?? `the node answers ${answer.status}`);
  }
  return answer;
}

export async function get(target) {
  return (await ask("GET", target)).json();
}

export async function post(target, body) {
  return (await ask("POST", target, body)).json();
}

// Take the events out of a stream's text: [[name, data], ...] and the rest that is not whole yet.
export function eventsIn(text) {
  const parts = text.split("\n\n");
  const rest = parts.pop();
  const events = parts.map((part) => {
    const lines = part.split("\n");
    const of = (key) => lines.find((line) => line.startsWith(`${key}: `))?.slice(key.length + 2);
    return [of("event"), of("data")];
  });
  return [events.filter(([name, data]) => name && data), rest];
}

export function pauseAfter(failures) {
  return Math.min(MAX_PAUSE, FIRST_PAUSE * 2 ** Math.max(0, failures - 1));
}

// The node's status, live: asks again with growing pauses, and rests while nobody looks.
export class Watch {
  // onStatus(status); onTrouble(fault, seconds to the next try) or (null) once it is over
  constructor(onStatus, onTrouble) {
    this.onStatus = onStatus;
    this.onTrouble = onTrouble;
    this.failures = 0;
    this.turn = 0;
  }

  // Begin, or begin anew: with another token, or as the tab is seen again.
  start() {
    this.stop();
    this.failures = 0;
    this.follow(this.turn);
  }

  stop() {
    this.turn += 1;
    this.abort?.abort();
    clearTimeout(this.timer);
  }

  async follow(turn) {
    this.abort = new AbortController();
    try {
      const answer = await ask("GET", "/v1/stream?topics=status", undefined, this.abort.signal);
      await this.read(answer.body.getReader(), turn);
      throw new Fault(0, "the node ended the connection");
    } catch (error) {
      clearTimeout(this.silence);
      if (turn !== this.turn) return; // it was stopped
      this.again(error instanceof Fault ? error : new Fault(0, "the node does not answer"), turn);
    }
  }

  again(fault, turn) {
    this.failures += 1;
    if (fault.status === 401) return this.onTrouble(fault, null);
    const pause = pauseAfter(this.failures);
    this.onTrouble(fault, pause / 1000);
    this.timer = setTimeout(() => this.follow(turn), pause);
  }

  async read(reader, turn) {
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      clearTimeout(this.silence);
      this.silence = setTimeout(() => this.abort.abort(), SILENCE);
      const { done, value } = await reader.read();
      if (done || turn !== this.turn) return;
      const [events, rest] = eventsIn(text + decoder.decode(value, { stream: true }));
      text = rest;
      const latest = events.filter(([name]) => name === "status").pop();
      if (latest) {
        this.failures = 0;
        this.onTrouble(null);
        this.onStatus(JSON.parse(latest[1]));
      }
    }
  }
}
