// The answers on the page: one card each, side by side, with its rank, its flag and what the labeler wrote.

import { make } from "./plumbline.js";
import { listed } from "./ballot.js";
import { makeDraggable } from "./drag.js";

export class Cards {
  #cards = new Map(); // place -> its elements

  /** `acts` has `rank(place, rank)`, `flag(place)`, `drop(place, slot)` and `write(place, text)`. */
  constructor(acts) {
    this.acts = acts;
    this.answers = document.getElementById("answers");
    this.own = document.getElementById("own");
    this.answers.addEventListener("focusin", (event) => {
      this.answers.querySelector(".here")?.classList.remove("here");
      event.target.closest(".answer").classList.add("here");
    });
  }

  /** Paints another set. */
  paint(ballot) {
    this.ballot = ballot;
    this.#cards.clear();
    this.answers.replaceChildren(...ballot.order.map((place) => this.#card(place)));
    this.answers.dataset.count = ballot.size;
    this.answers.classList.toggle("many", ballot.size > 4);
    this.answers.hidden = false;
    this.#paintOwn();
    this.refresh();
    for (const { text, expand } of this.#cards.values()) expand.hidden = text.scrollHeight <= text.clientHeight + 1;
  }

  /** Shows what the ballot says now. */
  refresh() {
    for (const [place, card] of this.#cards) {
      const rank = this.ballot.ranks[place];
      const flagged = this.ballot.flags[place];
      const tied = this.ballot.at(rank).filter((other) => rank !== null && other !== place);
      card.root.classList.toggle("ranked", rank !== null);
      card.root.classList.toggle("flagged", flagged);
      if (this.ballot.isDecided(place)) card.root.classList.remove("wanted");
      card.verdict.textContent = flagged ? "Makes no sense" : rank === null ? "No rank yet" : `Rank ${rank}`;
      card.tied.textContent = tied.length ? `tied with ${listed(tied.map((other) => this.ballot.letter(other)))}` : "";
      for (const button of card.ranks) button.setAttribute("aria-checked", String(Number(button.dataset.rank) === rank));
      card.flag.setAttribute("aria-checked", String(flagged));
      card.edited.hidden = !this.ballot.texts.has(place);
    }
  }

  /** The place of the card that keys speak to: the one that had the focus last. */
  here() {
    const card = this.answers.querySelector(".here");
    return card ? Number(card.dataset.place) : null;
  }

  focus(place, settings) {
    this.#cards.get(place)?.root.focus(settings);
  }

  /** Marks the answers that need a decision before the set can be submitted. */
  want(places) {
    for (const place of places) this.#cards.get(place).root.classList.add("wanted");
  }

  /** Moves the focus to a neighbour, by one in reading order or to the next row; false where there is none. */
  move(key) {
    const roots = [...this.answers.children];
    const here = roots.indexOf(this.answers.querySelector(".here"));
    const columns = roots.filter((root) => root.offsetTop === roots[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    const there = Math.abs(step) === 1 ? roots.at((here + step) % roots.length) : roots[here + step];
    there?.focus();
    return there !== undefined;
  }

  /** Scrolls the text of the card that keys speak to; false when all of it is in view. */
  scroll(direction) {
    const text = this.#cards.get(this.here())?.text;
    if (!text || text.scrollHeight <= text.clientHeight + 1) return false;
    text.scrollBy({ top: direction * text.clientHeight * 0.85 });
    return true;
  }

  toggleSize(place) {
    const card = this.#cards.get(place);
    if (!card) return;
    const whole = card.root.classList.toggle("whole");
    card.expand.setAttribute("aria-expanded", String(whole));
    card.root.scrollIntoView({ block: "nearest" });
  }

  /** Opens the field for what the labeler would rather have read, or their own answer. */
  edit(place) {
    if (place === "own") return this.#openOwn();
    const card = this.#cards.get(place);
    if (!card || card.field) return card?.field.focus();
    const label = `Answer ${this.ballot.letter(place)}, as you would write it`;
    card.field = this.#field(place, this.ballot.texts.get(place) ?? this.ballot.text(place), label, () => {
      card.field = null;
      card.root.focus();
    });
    card.edited.before(fieldBox(card.field, label));
    card.field.focus();
  }

  #card(place) {
    const letter = this.ballot.letter(place);
    const id = `answer-${place}`;
    const text = make("div", { class: "text", dir: "auto", id: `${id}-text` }, this.ballot.text(place) || make("em", { class: "soft" }, "This answer is empty."));
    const handle = make("button", { type: "button", class: "handle", tabindex: "-1", title: "Drag onto a rank below", "aria-hidden": true, "data-letter": letter }, letter, grip());
    const verdict = make("span", { class: "verdict", id: `${id}-verdict` });
    const tied = make("span", { class: "tied" });
    const ranks = this.ballot.order.map((_, index) => this.#radio(place, String(index + 1), index + 1, this.ballot.isEmpty(place)));
    const flag = make("button", { type: "button", class: "flag", role: "radio", tabindex: "-1", onclick: () => this.acts.flag(place) }, "Makes no sense ", make("kbd", {}, "F"));
    const expand = make("button", { type: "button", class: "quiet small", tabindex: "-1", "aria-expanded": "false", onclick: () => this.toggleSize(place) }, "All of it ", make("kbd", {}, "O"));
    const edit = make("button", { type: "button", class: "quiet small", tabindex: "-1", onclick: () => this.edit(place) }, "Edit ", make("kbd", {}, "E"));
    const edited = make("button", { type: "button", class: "badge edited", tabindex: "-1", hidden: true, onclick: () => this.edit(place) }, "You edited this");
    const root = make(
      "article",
      { class: "answer", id, tabindex: "0", "data-place": place, role: "radiogroup", "aria-roledescription": "answer", "aria-label": `Answer ${letter}`, "aria-describedby": `${id}-verdict ${id}-text` },
      make("header", {}, handle, make("span", { class: "says" }, verdict, tied), edit, expand),
      text,
      make("div", { class: "written" }, edited),
      make("footer", {}, make("div", { class: "ranks" }, ...ranks), flag),
    );
    makeDraggable(handle, place, this.acts.drop);
    this.#cards.set(place, { root, text, verdict, tied, ranks, flag, expand, edited, field: null });
    return root;
  }

  #radio(place, name, rank, disabled) {
    const press = () => this.acts.rank(place, rank);
    return make("button", { type: "button", role: "radio", tabindex: "-1", "aria-label": `Rank ${rank}`, "data-rank": rank, disabled, onclick: press }, name);
  }

  #field(place, text, label, close) {
    const field = make("textarea", { "aria-label": label, dir: "auto" });
    field.value = text;
    field.addEventListener("input", () => this.acts.write(place, field.value));
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && !(event.key === "Enter" && (event.ctrlKey || event.metaKey))) return;
      event.preventDefault();
      event.stopPropagation();
      field.closest(".field").remove();
      close();
      this.refresh();
    });
    return field;
  }

  #paintOwn() {
    const open = make("button", { type: "button", class: "quiet", onclick: () => this.#openOwn() }, "Write a better answer yourself ", make("kbd", {}, "W"));
    this.own.replaceChildren(open);
    this.own.hidden = false;
    if (this.ballot.texts.has("own")) this.#openOwn(false);
  }

  #openOwn(focus = true) {
    const there = this.own.querySelector("textarea");
    if (there) return there.focus();
    const label = "Your own answer";
    const field = this.#field("own", this.ballot.texts.get("own") ?? "", label, () => {
      this.#paintOwnClosed();
      this.answers.querySelector(".answer")?.focus();
    });
    this.own.replaceChildren(fieldBox(field, label));
    if (focus) field.focus();
  }

  #paintOwnClosed() {
    const written = this.ballot.texts.get("own");
    if (!written) return this.#paintOwn();
    const again = make("button", { type: "button", class: "quiet small", onclick: () => this.#openOwn() }, "Edit ", make("kbd", {}, "W"));
    this.own.replaceChildren(make("h3", {}, "Your own answer ", again), make("p", { class: "lines", dir: "auto" }, written));
  }
}

function fieldBox(field, label) {
  const hint = make("p", { class: "soft small" }, "Saved as you type. ", make("kbd", {}, "Esc"), " closes it.");
  return make("div", { class: "field" }, make("span", { class: "label", "aria-hidden": true }, label), field, hint);
}

function grip() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 8 14");
  svg.setAttribute("aria-hidden", "true");
  for (const [x, y] of [[2, 2], [6, 2], [2, 7], [6, 7], [2, 12], [6, 12]]) {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    for (const [name, value] of [["cx", x], ["cy", y], ["r", 1.1]]) dot.setAttribute(name, value);
    svg.append(dot);
  }
  return svg;
}
