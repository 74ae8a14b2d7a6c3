// What was said and is not yet known to be stored. Each item lies in the browser's storage from the moment of the key
// press until the server has acknowledged it, so neither a dropped network nor a reload loses it; it carries its own
// key, so being sent twice stores it once.

import { Refused, ask, inPlainWords, keep, kept } from "./plumbline.js";

const LONGEST_WAIT = 30;
const PATIENCE = 15000;

/** Jobs one after the other, so that a draft never overtakes the submission that follows it. */
export class Line {
  #last = Promise.resolve();

  add(job) {
    this.#last = this.#last.then(job, job);
    return this.#last;
  }
}

export class Outbox {
  #items = [];
  #failures = 0;
  #timer = null;
  #sending = false;

  /** `changed(outbox)` is called whenever there is something to show. */
  constructor(who, line, changed) {
    this.prefix = `plumbline.outbox.${who}.`;
    this.line = line;
    this.changed = changed;
    this.trouble = null; // the sentence that says why something waits
    this.refused = []; // items that the server will never take, each with its `sentence`
    this.unkept = false; // the browser's storage is full: only this page knows them
    this.#load();
    addEventListener("online", () => this.send());
  }

  get waiting() {
    return this.#items.length;
  }

  /** The ids of the sets that something waits for. */
  get sets() {
    return [...this.#items, ...this.refused].map((item) => item.body.set_id);
  }

  #load() {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix));
    this.#items = names.map((name) => JSON.parse(kept(name))).sort((one, other) => one.at - other.at);
  }

  /** Keeps an item and begins to send it. */
  add(address, key, body) {
    const item = { address, key, body, at: Date.now() + this.#items.length / 1000 };
    this.unkept ||= !keep(this.prefix + key, JSON.stringify(item));
    this.#items.push(item);
    this.changed(this);
    return this.send();
  }

  /** Sends what there is, in its order; after a failure again and again, each time a little later. */
  send() {
    clearTimeout(this.#timer);
    if (this.#sending) return this.#sending;
    this.#sending = this.line.add(() => this.#sendAll()).finally(() => (this.#sending = false));
    return this.#sending;
  }

  async #sendAll() {
    while (this.#items.length > 0) {
      const [item] = this.#items;
      try {
        await ask("POST", item.address, { ...item.body, key: item.key }, PATIENCE);
      } catch (error) {
        if (!isFinal(error)) return this.#retry(error);
        this.refused.push({ ...item, sentence: error.message });
      }
      this.#items.shift();
      if (!this.refused.some((each) => each.key === item.key)) localStorage.removeItem(this.prefix + item.key);
      this.#failures = 0;
      this.trouble = null;
      this.changed(this);
    }
    this.unkept = false;
  }

  #retry(error) {
    const wait = error.wait || Math.min(LONGEST_WAIT, 2 ** this.#failures);
    this.#failures += 1;
    this.trouble = inPlainWords(error);
    this.#timer = setTimeout(() => this.send(), 1000 * wait * (0.75 + Math.random() / 2));
    this.changed(this);
  }

  /** Gives up an item that was refused. */
  drop(item) {
    this.refused = this.refused.filter((each) => each !== item);
    localStorage.removeItem(this.prefix + item.key);
    this.changed(this);
  }
}

/** Whether the same request would be refused for ever: not by a broken server, a lost session or too much at once. */
function isFinal(error) {
  return error instanceof Refused && error.status >= 400 && error.status < 500 && ![401, 403, 408, 429].includes(error.status);
}
