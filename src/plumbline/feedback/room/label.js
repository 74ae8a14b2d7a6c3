// The ranking room: which set is on the page, what a key does, and what is sent where.
//
// The next set is loaded while this one is being ranked, so Enter paints it from memory. Whatever is sent goes through
// one line, one thing after the other: drafts, then what the outbox holds, then the question for the next set.

import { announce, ask, inPlainWords, isTyping, keep, kept, make, newKey } from "./plumbline.js";
import { Ballot, listed } from "./ballot.js";
import { Cards } from "./cards.js";
import { Instructions } from "./instructions.js";
import { Line, Outbox } from "./outbox.js";
import { Past, beginning, inWords } from "./past.js";
import { Tray } from "./tray.js";

const DRAFT_AFTER = 500; // milliseconds of rest after a change
const ASK_AGAIN = 15000; // milliseconds until we ask for a set once more where there was none,
const TRY_AGAIN = 4000; // and where the server did not answer
const byId = (name) => document.getElementById(name);

class Room {
  ballot = null;
  next = null; // the claim after this one
  parked = []; // what was on the page before an earlier set was reopened
  revising = null; // the earlier set that is being changed

  constructor() {
    this.who = byId("room").dataset.who;
    const acts = {
      rank: (place, rank) => this.decide(place, this.ballot.ranks[place] === rank ? "none" : rank),
      flag: (place) => this.decide(place, "flag"),
      drop: (place, slot) => this.decide(place, slot === "flag" && this.ballot.flags[place] ? null : slot),
      write: (place, text) => this.write(place, text),
    };
    this.cards = new Cards(acts);
    this.tray = new Tray(acts);
    this.instructions = new Instructions(this.who);
    this.past = new Past((item) => this.reopen(item));
    this.line = new Line();
    this.outbox = new Outbox(this.who, this.line, (outbox) => this.showSaved(outbox));
    this.showSaved(this.outbox);
    this.listen();
  }

  async start() {
    await this.outbox.send();
    this.load();
    this.line.add(async () => {
      const { items } = await ask("GET", "/label/api/history");
      this.past.start(items.map((item) => ({ ...item, said: item.reason ? `skipped: ${item.reason}` : inWords(item) })));
    });
  }

  // ---- which set is on the page

  /** Asks for a set until there is one on the page and one more in memory. */
  load() {
    clearTimeout(this.later);
    this.line.add(() => this.ask()).catch((error) => this.wait(inPlainWords(error)));
  }

  async ask() {
    while (!this.ballot || !this.next) {
      const shown = [this.ballot, ...this.parked].filter(Boolean).map((ballot) => ballot.claim.set_id);
      const { claim } = await ask("POST", "/label/api/claim", { have: [...new Set([...shown, ...this.outbox.sets])] });
      if (!claim) return this.wait("");
      if (this.ballot) this.next = claim;
      else this.paint(new Ballot(claim, this.begun(claim)));
    }
  }

  wait(trouble) {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.load(), trouble ? TRY_AGAIN : ASK_AGAIN);
    if (this.ballot) return;
    const text = trouble ? `The next set is not here yet. ${trouble}` : "Nothing to rank right now. This page looks again by itself.";
    byId("nothing").replaceChildren(make("h2", {}, trouble ? "One moment" : "Thank you"), make("p", {}, text));
    this.showTask(false);
    announce(text);
  }

  paint(ballot, revising = null) {
    this.ballot = ballot;
    this.revising = revising;
    this.shownAt = performance.now();
    this.showTask(true);
    byId("prompt").replaceChildren(...turns(ballot.claim.prompt));
    this.instructions.show(ballot.claim.instruction);
    this.cards.paint(ballot);
    this.tray.show(ballot);
    byId("revising").hidden = byId("leave").hidden = !revising;
    byId("skip").hidden = revising !== null;
    byId("submit-text").textContent = revising ? "Submit the change" : "Submit and next";
    byId("revising").textContent = "You are changing what you said before. Until you submit, your earlier answer stands.";
    this.cards.focus(ballot.missing()[0] ?? ballot.order[0], { preventScroll: true });
    scrollTo(0, 0);
    announce(`${revising ? "An earlier set" : "Next set"}: ${beginning(ballot.claim.prompt)}`);
  }

  showTask(there) {
    for (const name of ["instructions", "prompt", "answers", "own"]) byId(name).hidden = !there;
    byId("nothing").hidden = there;
    if (!there) this.tray.hide();
  }

  /** On to the set that was parked, or the one in memory, or whatever the server has. */
  advance() {
    this.ballot = null;
    this.revising = null;
    if (this.parked.length) return this.paint(this.parked.pop());
    if (this.next) this.paint(new Ballot(this.next, this.begun(this.next)));
    else this.wait("Waiting for the server.");
    this.next = null;
    this.load();
  }

  // ---- what the labeler does

  /** Ranks, flags or clears an answer; `onward` moves the focus to the next one without a decision. */
  decide(place, slot, onward = false) {
    const { ballot } = this;
    const letter = ballot.letter(place);
    if (typeof slot === "number" && !ballot.rank(place, slot)) {
      const why = ballot.isEmpty(place) ? `${letter} is empty: it can only be flagged, with F` : `There are ${ballot.size} answers: rank them 1 to ${ballot.size}`;
      return this.tell(why);
    }
    if (slot === "flag") ballot.flag(place);
    if (slot === "none") ballot.clear(place);
    this.cards.refresh();
    this.tray.show(ballot);
    this.saveDraft();
    const tied = ballot.at(slot).filter((other) => other !== place);
    const said = ballot.flags[place] ? `${letter} makes no sense` : typeof slot === "number" ? `${letter} rank ${slot}` : `${letter} has no rank`;
    const next = onward && ballot.isDecided(place) ? ballot.nextAfter(place) : null;
    announce(said + (tied.length && slot !== "flag" ? `, tied with ${listed(tied.map((other) => ballot.letter(other)))}` : "") + (ballot.missing().length ? "" : ". Ready to submit"));
    if (next !== null) this.cards.focus(next);
  }

  write(place, text) {
    this.ballot.write(place, text);
    this.saveDraft();
  }

  submit() {
    const { ballot } = this;
    if (!ballot) return;
    const missing = ballot.missing();
    if (missing.length) {
      const sentence = `${listed(missing.map((place) => ballot.letter(place)))} ${missing.length === 1 ? "needs" : "need"} a rank, or F`;
      this.cards.want(missing);
      this.cards.focus(missing[0]);
      return this.tell(sentence);
    }
    this.tick();
    const { set_id, again, instruction } = ballot.claim;
    const body = { set_id, again, instruction_version: instruction.version, shown_order: ballot.order, client_time: new Date().toISOString(), ...ballot.kept() };
    this.finish("/label/api/submit", body, "submitted", inWords(ballot));
    localStorage.removeItem(this.draftName(ballot.claim));
    this.advance();
  }

  skip(reason) {
    const { set_id, again } = this.ballot.claim;
    this.tick();
    if (this.ballot.hasContent()) this.sendDraft(this.ballot);
    this.finish("/label/api/skip", { set_id, again, reason }, "skipped", `skipped: ${reason}`);
    this.advance();
  }

  finish(address, body, state, said) {
    clearTimeout(this.draftTimer);
    const { ballot } = this;
    this.outbox.add(address, newKey(), body);
    this.past.add({ set_id: body.set_id, again: body.again, prompt: beginning(ballot.claim.prompt), state, said, ballot });
  }

  /** Puts an earlier set on the page again; the one that is there waits. */
  async reopen(item) {
    if (!item) return this.tell("There is nothing to go back to.");
    try {
      item.ballot ??= await this.fetchPast(item);
    } catch (error) {
      return this.tell(`That set cannot be opened now. ${error.message}`);
    }
    if (this.ballot && !this.revising) {
      this.tick();
      this.parked.push(this.ballot);
    }
    const { claim } = item.ballot;
    this.paint(new Ballot(claim, { ...item.ballot.kept(), seconds: 0 }), item);
  }

  async fetchPast({ set_id, again }) {
    const { claim, kept } = await ask("POST", "/label/api/reopen", { set_id, again });
    return new Ballot(claim, kept);
  }

  /** The set before the one on the page. */
  reopenLast() {
    const { items } = this.past;
    const here = items.indexOf(this.revising);
    this.reopen(items[here + 1]);
  }

  /** Says something in the tray and to a screen reader. */
  tell(sentence) {
    this.tray.want(sentence);
    announce(sentence);
  }

  // ---- keeping

  /** Adds the seconds since the last tick to the set's, without those in which nobody could see it. */
  tick(seen = !document.hidden) {
    const now = performance.now();
    if (seen) this.ballot.seconds += (now - this.shownAt) / 1000;
    this.shownAt = now;
  }

  draftName({ set_id, again }) {
    return `plumbline.draft.${this.who}.${again ? "again." : ""}${set_id}`;
  }

  /** What was begun on a set: here, where the server has not heard of it yet, or there. */
  begun(claim) {
    return JSON.parse(kept(this.draftName(claim)) ?? "null") ?? claim.draft;
  }

  saveDraft() {
    if (this.revising?.state === "submitted") return; // what was submitted stands until it is submitted anew
    const { ballot } = this;
    keep(this.draftName(ballot.claim), JSON.stringify(ballot.kept()));
    clearTimeout(this.draftTimer);
    this.draftTimer = setTimeout(() => this.sendDraft(ballot), DRAFT_AFTER);
  }

  sendDraft(ballot) {
    const { claim } = ballot;
    const draft = ballot.kept();
    const name = this.draftName(claim);
    this.line
      .add(() => ask("POST", "/label/api/draft", { set_id: claim.set_id, again: claim.again, draft }))
      .then(() => kept(name) === JSON.stringify(draft) && localStorage.removeItem(name))
      .catch(() => {}); // it stays in this browser, and the next change sends it again
  }

  showSaved({ waiting, trouble, refused, unkept }) {
    const saved = byId("saved");
    saved.textContent = waiting ? `${waiting} not saved yet` : refused.length ? `${refused.length} not accepted` : "All saved";
    saved.classList.toggle("unsaved", waiting > 0 || refused.length > 0);
    const notice = byId("trouble");
    const wasHidden = notice.hidden;
    notice.hidden = !trouble && !refused.length;
    if (notice.hidden && !wasHidden) this.load(); // the server is back
    if (notice.hidden) return;
    const many = waiting === 1 ? "1 ranking is" : `${waiting} rankings are`;
    const where = unkept ? "Keep this page open: this browser's storage is full." : `${many} kept in this browser and sent again until stored.`;
    const parts = trouble ? [make("p", {}, `${trouble} ${where}`), make("button", { type: "button", onclick: () => this.outbox.send() }, "Try now")] : [];
    for (const item of refused) {
      parts.push(make("p", {}, `A ranking was not accepted: ${item.sentence}`), make("button", { type: "button", onclick: () => this.outbox.drop(item) }, "Give it up"));
    }
    notice.replaceChildren(...parts);
    if (wasHidden) announce([...notice.querySelectorAll("p")].map((each) => each.textContent).join(" "));
  }

  // ---- listening

  listen() {
    addEventListener("keydown", (event) => this.press(event));
    addEventListener("storage", ({ key, newValue }) => newValue && key.startsWith(this.outbox.prefix) && this.answeredElsewhere(JSON.parse(newValue)));
    document.addEventListener("visibilitychange", () => this.ballot && this.tick(document.hidden));
    byId("submit").addEventListener("click", () => this.submit());
    byId("skip").addEventListener("click", () => byId("reasons").showModal());
    byId("reopen").addEventListener("click", () => this.reopenLast());
    byId("leave").addEventListener("click", () => this.advance());
    byId("show-keys").addEventListener("click", () => byId("keys").showModal());
    for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
    for (const button of document.querySelectorAll("[data-reason]")) button.addEventListener("click", () => this.chose(button));
    byId("reasons").addEventListener("keydown", (event) => {
      const button = document.querySelectorAll("[data-reason]")[Number(event.key) - 1];
      if (button) this.chose(button);
    });
  }

  chose(button) {
    byId("reasons").close();
    this.skip(button.dataset.reason);
  }

  /** The same person answered the set on this page in another tab. */
  answeredElsewhere({ address, body }) {
    if (this.next?.set_id === body.set_id) this.next = null;
    if (this.ballot?.claim.set_id !== body.set_id || this.revising) return;
    const { set_id, again, reason } = body;
    const said = reason ? `skipped: ${reason}` : inWords({ ...body, order: body.shown_order });
    const state = address.endsWith("/skip") ? "skipped" : "submitted";
    this.past.add({ set_id, again, prompt: beginning(this.ballot.claim.prompt), state, said });
    this.advance();
    this.tell("You answered that set in another tab. This is the next one.");
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    const inCard = event.target.closest(".answer") !== null;
    const onControl = !inCard && event.target.closest("button, a, summary") !== null;
    if (onControl && ["Enter", " "].includes(event.key)) return; // the control is meant
    const act = this.ballot ? this.action(event.key, event.shiftKey) : null;
    if (!act && event.key === "?") byId("keys").showModal();
    else if (!act && ["Backspace", "u"].includes(event.key)) this.reopenLast();
    else if (!act || act() === false) return;
    event.preventDefault();
  }

  /** What a key does while a set is on the page; null when nothing. */
  action(key, shift) {
    const here = this.cards.here() ?? this.ballot.order[0];
    if (/^[0-9]$/.test(key)) return () => this.decide(here, Number(key) || 10, true);
    const actions = {
      f: () => this.decide(here, "flag", true),
      Delete: () => this.decide(here, "none"),
      Enter: () => this.submit(),
      Escape: () => (this.revising ? this.advance() : false),
      s: () => (this.revising ? false : byId("reasons").showModal()),
      e: () => this.cards.edit(here),
      w: () => this.cards.edit("own"),
      o: () => this.cards.toggleSize(here),
      h: () => this.instructions.toggle(),
      PageDown: () => this.cards.scroll(1),
      PageUp: () => this.cards.scroll(-1),
      " ": () => this.cards.scroll(shift ? -1 : 1),
    };
    if (key.startsWith("Arrow")) return () => this.cards.move(key);
    return actions[key] ?? actions[key.toLowerCase()] ?? null;
  }
}

/** A conversation, or the one question that it mostly is. */
function turns(prompt) {
  const names = { system: "System", user: "Person", assistant: "Model", tool: "Tool" };
  const only = prompt.length === 1;
  return prompt.map(({ role, content }) =>
    make("div", { class: `turn ${role}` }, make("h2", {}, only ? "Prompt" : names[role]), make("div", { class: "text", dir: "auto" }, content)),
  );
}

new Room().start();
