// The words that labelers rank by: always in view, and what changed in them shown once.

import { announce, ask, keep, kept, make } from "./plumbline.js";

/** Text with the few marks that instructions need: "# " begins a heading, "- " a point, an empty line a paragraph. */
export function written(text) {
  const place = document.createDocumentFragment();
  for (const block of text.trim().split(/\n\s*\n/)) {
    let list = null;
    let paragraph = null;
    for (const line of block.split("\n")) {
      const [, mark, rest] = line.match(/^(#+|[-*]|\d+[.)]) +(.*)$/) ?? [null, "", line];
      if (mark.startsWith("#")) place.append(make("h3", {}, rest));
      else if (mark) {
        list ??= place.appendChild(make(/\d/.test(mark) ? "ol" : "ul"));
        list.append(make("li", { dir: "auto" }, rest));
        continue;
      } else if (list && /^\s+\S/.test(line)) {
        list.lastChild.append(` ${rest.trim()}`);
        continue;
      } else {
        paragraph ??= place.appendChild(make("p", { dir: "auto", class: "lines" }));
        paragraph.append(paragraph.textContent ? `\n${rest}` : rest);
        continue;
      }
      list = paragraph = null;
    }
  }
  return place;
}

/** Of text that stayed, the line next to what changed before it and after it. */
function around(text, changeBefore, changeAfter) {
  const lines = text.split("\n");
  const first = changeBefore ? lines.slice(0, 2) : [];
  const last = changeAfter ? lines.slice(-2) : [];
  return first.length + last.length >= lines.length ? text : [...first, "…", ...last].join("\n");
}

export class Instructions {
  #shown = null;

  constructor(who) {
    this.who = who;
    this.panel = document.getElementById("instructions");
    this.text = document.getElementById("instruction-text");
    this.change = document.getElementById("change");
    this.panel.addEventListener("toggle", () => keep("plumbline.instructions", this.panel.open ? "open" : "closed"));
    const wide = matchMedia("(min-width: 40rem)").matches;
    this.panel.open = (kept("plumbline.instructions") ?? (wide ? "open" : "closed")) === "open";
  }

  toggle() {
    this.panel.open = !this.panel.open;
    announce(this.panel.open ? "Instructions open" : "Instructions closed");
  }

  /** Shows the instructions of a set, and, where this reader knows an earlier version, what is new. */
  async show({ criterion, version, text }) {
    const name = `${criterion} ${version}`;
    if (this.#shown === name) return;
    this.#shown = name;
    document.getElementById("criterion").textContent = criterion;
    document.getElementById("version").textContent = `version ${version}`;
    document.getElementById("gist").textContent = text.trim().split("\n")[0];
    this.text.replaceChildren(written(text));
    this.change.hidden = true;
    const read = Number(kept(this.#place(criterion)));
    if (read && read < version) await this.#showChange(criterion, read, version);
    else keep(this.#place(criterion), version);
  }

  #place(criterion) {
    return `plumbline.read.${this.who}.${criterion}`;
  }

  async #showChange(criterion, read, version) {
    const { parts } = await ask("POST", "/label/api/changes", { criterion, since: read, until: version }).catch(() => ({}));
    if (!parts || this.#shown !== `${criterion} ${version}`) return;
    const tags = { same: "span", gone: "del", new: "ins" };
    const done = make("button", { type: "button", class: "first" }, "I have read it");
    done.addEventListener("click", () => {
      keep(this.#place(criterion), version);
      this.change.hidden = true;
      document.querySelector(".answer")?.focus();
    });
    this.change.replaceChildren(
      make("h2", {}, `The instructions changed: version ${version}`),
      make("p", { class: "lines", dir: "auto" }, ...parts.map(({ kind, text }, at) => make(tags[kind], {}, kind === "same" ? around(text, at > 0, at < parts.length - 1) : text))),
      done,
    );
    this.change.hidden = false;
    announce(`The instructions changed to version ${version}.`);
  }
}
