// The playground: one conversation, its sampling, and the picture of what comes next.

import { announce, ask, keep, kept, make, Refused } from "./plumbline.js";
import { Answer, Ranking } from "./answers.js";
import { Picture } from "./picture.js";

const REST = 350; // milliseconds without a change before the picture is drawn anew
const NUMBERS = ["temperature", "top_k", "top_p", "max_tokens"];
const byId = (name) => document.getElementById(name);
const csrf = document.querySelector('meta[name="csrf"]').content;

/** The events of a stream, as they come. */
async function* events(address, body, signal) {
  const headers = { Accept: "text/event-stream", "Content-Type": "application/json", "X-CSRF-Token": csrf };
  const answer = await fetch(address, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) {
    const data = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, data.error?.message ?? data.error ?? `The server said ${answer.status}.`);
  }
  let rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const pieces = (rest + part.value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) {
      const data = piece.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.message);
      yield event;
    }
  }
  throw new Refused(500, "The answer broke off.");
}

class Playground {
  turns = []; // what was said, as the model reads it
  stopping = null;
  looked = 0;
  talk = 0; // which conversation this is; answers that come after a new one was begun belong to none

  constructor() {
    this.picture = byId("picture") && new Picture(byId("picture"), byId("legend"), byId("picture-says"));
    for (const name of NUMBERS) {
      const field = byId(name);
      field.value = kept(`playground ${name}`) ?? field.value;
      field.addEventListener("input", () => this.changed(name));
      this.showNumber(name);
    }
    byId("consent").checked = kept("playground consent") === "yes";
    byId("consent").addEventListener("change", (event) => keep("playground consent", event.target.checked ? "yes" : "no"));
    byId("composer").addEventListener("submit", (event) => this.submit(event));
    byId("words").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.submit(event);
    });
    byId("words").addEventListener("input", () => this.lookSoon());
    byId("system").addEventListener("input", () => this.lookSoon());
    byId("seed").addEventListener("input", () => this.lookSoon());
    byId("anew").addEventListener("click", () => this.anew());
    byId("stop").addEventListener("click", () => this.stopping?.abort());
    for (const starter of document.querySelectorAll(".starter")) {
      starter.addEventListener("click", () => {
        byId("words").value = starter.textContent;
        byId("composer").requestSubmit();
      });
    }
    byId("words").focus();
  }

  // ---- settings

  changed(name) {
    keep(`playground ${name}`, byId(name).value);
    this.showNumber(name);
    this.lookSoon();
  }

  showNumber(name) {
    const place = byId(`${name}-now`);
    if (!place) return;
    const value = Number(byId(name).value);
    const words = { temperature: value === 0 ? "0, greedy" : "", top_k: value === 0 ? "off" : "", top_p: value === 1 ? "off" : "" };
    place.textContent = words[name] || String(value);
  }

  sampling() {
    const drawn = Object.fromEntries(NUMBERS.map((name) => [name, Number(byId(name).value)]));
    const seed = byId("seed").value;
    return seed === "" ? drawn : { ...drawn, seed: Number(seed) };
  }

  messages(...more) {
    const system = byId("system").value.trim();
    return [...(system ? [{ role: "system", content: system }] : []), ...this.turns, ...more];
  }

  // ---- the picture

  lookSoon() {
    clearTimeout(this.later);
    if (this.picture) this.later = setTimeout(() => this.look(), REST);
  }

  async look() {
    const words = byId("words").value.trim();
    if (!words || !byId("next").open) return;
    const look = (this.looked += 1);
    try {
      const body = { messages: this.messages({ role: "user", content: words }), sampling: this.sampling() };
      const seen = await ask("POST", "/playground/api/look", body);
      if (look === this.looked) this.picture.show(seen); // else a later one is under way
    } catch (error) {
      byId("picture-says").textContent = error.message;
    }
  }

  // ---- asking

  async submit(event) {
    event.preventDefault();
    const words = byId("words").value.trim();
    if (!words || this.stopping) return;
    this.settle();
    byId("welcome").hidden = true;
    byId("trouble").hidden = true;
    this.turns.push({ role: "user", content: words });
    byId("turns").append(make("div", { class: "turn asked" }, make("div", { class: "text", dir: "auto" }, words)));
    byId("words").value = "";
    this.stopping = new AbortController();
    byId("send").disabled = true;
    const way = byId("way").value;
    byId("stop").hidden = way !== "1"; // drafts come at once or not at all
    try {
      if (way === "compare") await this.compare();
      else if (way === "1") await this.chat();
      else await this.draft(Number(way));
    } catch (error) {
      this.trouble(error, words);
    } finally {
      this.stopping = null;
      byId("send").disabled = false;
      byId("stop").hidden = true;
      byId("words").focus({ preventScroll: true });
    }
  }

  body(more = {}) {
    return { messages: this.messages(), sampling: this.sampling(), consent: byId("consent").checked, ...more };
  }

  show(...elements) {
    byId("turns").append(...elements);
    elements.at(-1).scrollIntoView({ block: "nearest" });
  }

  async chat() {
    const answer = new Answer((error) => this.trouble(error));
    this.show(answer.element);
    const begun = performance.now();
    let id, usage, finish;
    try {
      for await (const event of events("/playground/api/chat", this.body(), this.stopping.signal)) {
        id = event.id;
        byId("version").textContent = event.model;
        usage = event.usage ?? usage;
        const choice = event.choices[0];
        if (!choice) continue;
        answer.add(choice.delta.content ?? "");
        answer.logprobs.push(...(choice.logprobs?.content ?? []));
        finish = choice.finish_reason ?? finish;
      }
    } catch (error) {
      if (answer.text) answer.end({ about: "broken off" });
      else answer.element.remove();
      throw error;
    }
    const seconds = (performance.now() - begun) / 1000;
    const ended = { length: " · cut at the most tokens", content_filter: " · stopped by a rail" }[finish] ?? "";
    answer.end({ id, about: `${usage.completion_tokens} tokens · ${seconds.toFixed(1)} s${ended}` });
    answer.judge();
    this.turns.push({ role: "assistant", content: answer.text });
    answer.footer.scrollIntoView({ block: "nearest" });
    announce("The answer is there");
  }

  async draft(count) {
    const waiting = make("p", { class: "soft" }, `Writing ${count} drafts …`);
    const talk = this.talk;
    this.show(waiting);
    try {
      const reply = await ask("POST", "/playground/api/chat", this.body({ drafts: count }), 300000);
      if (talk !== this.talk) return;
      const texts = reply.choices.map((choice) => choice.message.content);
      this.rank(texts.map((text, choice) => ({ id: reply.id, choice, text })), (ranking) =>
        ask("POST", "/playground/api/feedback", { id: reply.id, ranks: ranking.ranks }).then(() => "Ranking kept; the best one goes on."),
      );
    } finally {
      waiting.remove();
    }
  }

  async compare() {
    const waiting = make("p", { class: "soft" }, "Two versions are writing …");
    const talk = this.talk;
    this.show(waiting);
    try {
      const { answers } = await ask("POST", "/playground/api/compare", this.body(), 300000);
      if (talk !== this.talk) return;
      this.rank(answers, async (ranking) => {
        const body = { ids: answers.map((each) => each.id), ranks: ranking.ranks };
        const { versions } = await ask("POST", "/playground/api/prefer", body);
        versions.forEach((name, place) => ranking.answers[place].footer.append(make("span", { class: "badge" }, name)));
        return "Comparison kept. Below each answer stands whose it was.";
      });
    } finally {
      waiting.remove();
    }
  }

  /** Several answers side by side, to be ranked. */
  rank(given, keepIt) {
    const answers = given.map(({ id, choice, text }) => {
      const answer = new Answer((error) => this.trouble(error));
      answer.add(text);
      answer.end({ id, choice });
      return answer;
    });
    const submit = async (ranking) => {
      try {
        const sentence = await keepIt(ranking);
        const best = ranking.done(sentence);
        if (this.open === ranking) this.goOn(best);
        announce(sentence);
      } catch (error) {
        this.trouble(error);
      }
    };
    const ranking = new Ranking(answers, { submit });
    this.open = ranking;
    this.openText = given[0].text;
    this.show(make("div", { class: "answers" }, ...answers.map((each) => each.element)), ranking.element);
    answers[0].element.scrollIntoView({ block: "nearest" });
  }

  goOn(answer) {
    this.open = null;
    this.turns.push({ role: "assistant", content: answer.text });
  }

  /** Whoever writes on without ranking goes on from the first draft. */
  settle() {
    if (!this.open) return;
    this.open = null;
    this.turns.push({ role: "assistant", content: this.openText });
  }

  anew() {
    this.stopping?.abort();
    this.talk += 1;
    this.turns = [];
    this.open = null;
    byId("turns").replaceChildren();
    byId("welcome").hidden = false;
    byId("trouble").hidden = true;
    byId("words").focus();
  }

  trouble(error, words) {
    if (words !== undefined && this.turns.at(-1)?.role === "user") {
      this.turns.pop();
      byId("words").value = words;
    }
    if (error.name === "AbortError") return announce("Stopped");
    const place = byId("trouble");
    place.replaceChildren(make("p", {}, error.message));
    place.hidden = false;
    place.scrollIntoView({ block: "nearest" });
  }
}

new Playground();
