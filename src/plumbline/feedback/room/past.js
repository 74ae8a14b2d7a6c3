// The labeler's last ten sets, and how many they have done.

import { make } from "./plumbline.js";

const KEPT = 10;
const LONGEST = 90;

export class Past {
  #items = []; // the latest first: set_id, again, prompt, said, state

  constructor(open) {
    this.open = open;
    this.list = document.getElementById("past");
    this.text = document.getElementById("progress-text");
    this.mine = Number(this.text.dataset.mine);
    this.showProgress();
  }

  get items() {
    return this.#items;
  }

  /** Puts what the server remembers below what was said since this page was loaded. */
  start(items) {
    const before = items.filter((item) => !this.#items.some((each) => isSame(each, item)));
    this.#items = [...this.#items, ...before].slice(0, KEPT);
    this.#show();
  }

  /** Puts a set first, in the place of what was said of it before. */
  add(item) {
    const known = this.#items.some((each) => isSame(each, item) && each.state === "submitted");
    this.#items = [item, ...this.#items.filter((each) => !isSame(each, item))].slice(0, KEPT);
    if (item.state === "submitted" && !known) this.mine += 1;
    this.#show();
    this.showProgress();
  }

  showProgress() {
    const { done, total } = this.text.dataset;
    const own = this.mine === 1 ? "You have ranked 1 set." : `You have ranked ${this.mine} sets.`;
    this.text.textContent = `${own} When this page was loaded, ${done} of ${total} had all their rankings.`;
  }

  #show() {
    document.getElementById("no-past").hidden = this.#items.length > 0;
    this.list.replaceChildren(
      ...this.#items.map((item) =>
        make(
          "li",
          {},
          make("button", { type: "button", class: "quiet", onclick: () => this.open(item) }, make("span", { class: "asked", dir: "auto" }, item.prompt), make("span", { class: "said" }, item.said)),
        ),
      ),
    );
  }
}

function isSame(one, other) {
  return one.set_id === other.set_id && one.again === other.again;
}

/** The beginning of a prompt, on one line. */
export function beginning(prompt) {
  const text = prompt.at(-1).content.replace(/\s+/g, " ").trim();
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text;
}

/** A ranking in a line: "B > A = D · no sense: C"; `ranks` and `flags` by place, letters by the order shown. */
export function inWords({ order, ranks, flags }) {
  const letters = (fits) => order.flatMap((place, index) => (fits(place) ? [String.fromCharCode(65 + index)] : []));
  const given = [...new Set(ranks.filter((rank) => rank !== null))].sort((one, other) => one - other);
  const said = given.map((rank) => letters((place) => ranks[place] === rank).join(" = ")).join(" > ");
  const flagged = letters((place) => flags[place]).join(", ");
  return [said, flagged && `no sense: ${flagged}`].filter(Boolean).join(" · ");
}
