// The tray at the foot of the page: the ranking as it stands, what it still lacks, and the ways on.

import { make } from "./plumbline.js";
import { listed } from "./ballot.js";
import { makeDraggable } from "./drag.js";

export class Tray {
  constructor(acts) {
    this.acts = acts;
    this.root = document.getElementById("tray");
    this.slots = document.getElementById("slots");
    this.missing = document.getElementById("missing");
  }

  show(ballot) {
    const ranks = ballot.order.map((_, index) => this.#slot(ballot, index + 1, [String(index + 1)], `Rank ${index + 1}`));
    this.slots.replaceChildren(...ranks, this.#slot(ballot, "flag", [make("span", { class: "long" }, "No sense"), make("span", { class: "short" }, "✕")], "Makes no sense"));
    const missing = ballot.missing();
    const left = listed(missing.map((place) => ballot.letter(place)));
    this.missing.textContent = !missing.length ? "Ready to submit" : missing.length === ballot.size ? "1 is the best; equal ranks are a tie" : `${left} to go`;
    this.missing.classList.toggle("ready", !missing.length);
    this.missing.classList.remove("warn");
    document.getElementById("submit").setAttribute("aria-disabled", String(missing.length > 0));
    this.root.hidden = false;
  }

  /** Says which answers need a decision before the set can be submitted. */
  want(sentence) {
    this.missing.textContent = sentence;
    this.missing.classList.add("warn");
  }

  hide() {
    this.root.hidden = true;
  }

  #slot(ballot, slot, label, said) {
    const there = ballot.at(slot);
    const letters = there.map((place) => {
      const letter = ballot.letter(place);
      const chip = make("span", { class: "chip", "data-letter": letter }, letter);
      makeDraggable(chip, place, this.acts.drop);
      return chip;
    });
    const heard = `${said}: ${listed(there.map((place) => ballot.letter(place))) || "none"}`;
    const kind = slot === "flag" ? "slot no-sense" : "slot";
    return make("div", { class: kind, role: "img", "aria-label": heard, "data-slot": slot }, make("span", { class: "place" }, ...label, slot === 1 && !letters.length ? make("span", { class: "best" }, " best") : null), ...letters);
  }
}
