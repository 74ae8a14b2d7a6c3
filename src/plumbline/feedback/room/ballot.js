// What a labeler says of one set: pure state, no page. Answers are named by their place in the set's own order; the
// letters A, B, C, ... follow the order in which they are shown.

export class Ballot {
  /** `claim` is what the server gave; `kept` a draft or an earlier ranking to start from. */
  constructor(claim, kept) {
    this.claim = claim;
    this.order = claim.answers.map((answer) => answer.place);
    this.ranks = this.order.map(() => null);
    this.flags = this.order.map(() => false);
    this.texts = new Map(); // place, or "own" -> what the labeler wrote
    this.seconds = 0;
    if (kept?.ranks?.length === this.order.length) this.ranks = [...kept.ranks];
    if (kept?.flags?.length === this.order.length) this.flags = [...kept.flags];
    for (const { place, text } of kept?.texts ?? []) this.texts.set(place ?? "own", text);
    if (kept?.seconds) this.seconds = kept.seconds;
  }

  get size() {
    return this.order.length;
  }

  letter(place) {
    return String.fromCharCode(65 + this.order.indexOf(place));
  }

  text(place) {
    return this.claim.answers[this.order.indexOf(place)].text;
  }

  /** An answer without a word can only be flagged. */
  isEmpty(place) {
    return this.text(place).trim() === "";
  }

  isDecided(place) {
    return this.flags[place] || this.ranks[place] !== null;
  }

  /** Gives an answer a rank, and says whether that was possible. */
  rank(place, rank) {
    if (this.isEmpty(place) || rank < 1 || rank > this.size) return false;
    this.flags[place] = false;
    this.ranks[place] = rank;
    return true;
  }

  flag(place) {
    this.flags[place] = !this.flags[place];
    this.ranks[place] = null;
  }

  clear(place) {
    this.flags[place] = false;
    this.ranks[place] = null;
  }

  write(place, text) {
    if (text.trim() === "" || (place !== "own" && text === this.text(place))) this.texts.delete(place);
    else this.texts.set(place, text);
  }

  /** The places, in the order shown, that still need a decision. */
  missing() {
    return this.order.filter((place) => !this.isDecided(place));
  }

  /** The next place after this one that needs a decision, round the end; null when none does. */
  nextAfter(place) {
    const here = this.order.indexOf(place);
    const round = [...this.order.slice(here + 1), ...this.order.slice(0, here)];
    return round.find((each) => !this.isDecided(each)) ?? null;
  }

  /** The places, in the order shown, that have this rank; for "flag", the flagged ones. */
  at(slot) {
    return this.order.filter((place) => (slot === "flag" ? this.flags[place] : this.ranks[place] === slot));
  }

  hasContent() {
    return this.missing().length < this.size || this.texts.size > 0;
  }

  /** As the server keeps it: a draft, and the body of a submission. */
  kept() {
    const texts = [...this.texts].map(([place, text]) => ({ place: place === "own" ? null : place, text }));
    return { ranks: this.ranks, flags: this.flags, texts, seconds: Math.round(this.seconds * 10) / 10 };
  }
}

/** Letters as one says them: "A", "A and C", "A, B and C". */
export function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
