// An answer on the page: its text, its tokens by how likely they were, and what one can say of it.

import { announce, ask, make } from "./plumbline.js";
import { percent, visible } from "./picture.js";

/** How sure the model was of a token, in five steps. */
function level(logprob) {
  const share = Math.exp(logprob);
  return share < 0.05 ? 0 : share < 0.25 ? 1 : share < 0.5 ? 2 : share < 0.9 ? 3 : 4;
}

function say(body) {
  return ask("POST", "/playground/api/feedback", body);
}

/** A button that is pressed or not. */
function press(name, text, act) {
  const button = make("button", { type: "button", class: `quiet ${name}`, "aria-pressed": "false" }, text);
  button.addEventListener("click", () => act(button));
  return button;
}

export class Answer {
  id = null;
  text = "";
  logprobs = [];

  constructor(onTrouble) {
    this.onTrouble = onTrouble;
    this.words = make("div", { class: "text", dir: "auto" });
    this.footer = make("footer", { hidden: true });
    this.element = make("article", { class: "answer writing", "aria-label": "Answer" }, this.words, this.footer);
  }

  add(text) {
    this.text += text;
    this.words.append(text);
  }

  /** The answer is whole: it can be judged. */
  end({ id, choice = 0, about = "" }) {
    this.id = id;
    this.choice = choice;
    this.element.classList.remove("writing");
    if (!this.text) this.words.append(make("span", { class: "soft" }, "(nothing)"));
    this.footer.hidden = false;
    this.about = make("span", { class: "about small soft" }, about);
  }

  /** Thumbs, an edit and, where they are known, the tokens. */
  judge() {
    const up = press("up", "Good", () => this.thumb("up", up, down));
    const down = press("down", "Bad", () => this.thumb("down", down, up));
    const parts = [up, down, press("edit", "Edit", (button) => this.rewrite(button))];
    if (this.logprobs.length) parts.push(press("tokens", "Tokens", (button) => this.showTokens(button)));
    this.footer.replaceChildren(...parts, this.about);
  }

  async thumb(which, pressed, other) {
    try {
      await say({ id: this.id, choice: this.choice, thumb: which });
      pressed.setAttribute("aria-pressed", "true");
      other.setAttribute("aria-pressed", "false");
      announce("Kept");
    } catch (error) {
      this.onTrouble(error);
    }
  }

  rewrite(button) {
    button.disabled = true;
    const field = make("textarea", { "aria-label": "How you would rather have read it", dir: "auto" });
    field.value = this.text;
    const leave = make("button", { type: "button", class: "quiet" }, "Leave it");
    const keep = make("button", { class: "first" }, "Keep the better answer");
    const form = make("form", { class: "rewrite" }, field, make("div", { class: "acts" }, leave, keep));
    const close = () => {
      form.remove();
      button.disabled = false;
      button.focus();
    };
    leave.addEventListener("click", close);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!field.value.trim() || field.value === this.text) return field.focus();
      try {
        await say({ id: this.id, choice: this.choice, edit: field.value });
        close();
        button.replaceWith(make("span", { class: "thanks" }, "Better answer kept"));
        announce("Better answer kept");
      } catch (error) {
        this.onTrouble(error);
      }
    });
    this.element.insertBefore(form, this.footer);
    field.focus();
  }

  showTokens(button) {
    const shown = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!shown));
    if (shown) return this.words.replaceChildren(this.text);
    const spans = this.logprobs.map((each) => {
      const others = each.top_logprobs.map((other) => `${percent(Math.exp(other.logprob))}  ${visible(other.token)}`);
      const title = [`${percent(Math.exp(each.logprob))}  ${visible(each.token)}`, "", ...others].join("\n");
      return make("span", { class: `token l${level(each.logprob)}`, title }, each.token);
    });
    this.words.replaceChildren(...spans);
  }
}

/** Ranks for several answers: a row of numbers below each, and one button when all have one. */
export class Ranking {
  constructor(answers, { names, submit }) {
    this.answers = answers;
    this.ranks = answers.map(() => undefined);
    this.keep = make("button", { type: "button", class: "first", disabled: true }, "Keep the ranking");
    this.says = make("p", { class: "soft" }, "Give each a rank: 1 is the best, the same rank twice is a tie.");
    this.element = make("div", { class: "ranking" }, this.says, this.keep);
    this.keep.addEventListener("click", () => submit(this));
    answers.forEach((answer, place) => this.row(answer, place, names));
  }

  row(answer, place, names) {
    const row = make("span", { class: "ranks", role: "group", "aria-label": "Rank of this answer" });
    const options = [...this.answers.map((_, number) => [number + 1, String(number + 1)]), [null, "No sense"]];
    for (const [rank, text] of options) {
      const button = press("rank", text, () => {
        this.ranks[place] = rank;
        for (const each of row.children) each.setAttribute("aria-pressed", String(each === button));
        this.keep.disabled = this.ranks.includes(undefined);
      });
      row.append(button);
    }
    answer.footer.replaceChildren(row, ...(names ? [answer.about] : []));
  }

  /** What is left when the ranking is on the disk. */
  done(sentence) {
    this.element.replaceChildren(make("p", { class: "thanks" }, sentence));
    for (const answer of this.answers) {
      for (const button of answer.footer.querySelectorAll("button")) button.disabled = true;
    }
    const ranked = this.ranks.map((rank) => rank ?? Infinity);
    const best = ranked.indexOf(Math.min(...ranked));
    this.answers[best].element.classList.add("best");
    return this.answers[best];
  }
}
