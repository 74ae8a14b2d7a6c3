// What may come next: two bars for each token, the model's own probability and what the sampling makes of it.

import { make } from "./plumbline.js";

const ROWS = 12;

/** A token as one can see it: blanks and line ends get signs. */
export function visible(token) {
  return token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
}

export function percent(share) {
  if (share === 0) return "–";
  return share < 0.001 ? "<.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

export class Picture {
  constructor(place, legend, says) {
    this.place = place;
    this.legend = legend;
    this.says = says;
  }

  show({ tokens, kept }) {
    const rows = tokens.slice(0, ROWS);
    this.longest = Math.max(...rows.flatMap((each) => [each.plain, each.kept]));
    this.place.replaceChildren(...rows.map((each) => this.row(each)));
    this.legend.hidden = rows.length === 0;
    this.says.textContent =
      kept === 1
        ? "One token is left to draw from: the answer begins with it."
        : `${kept.toLocaleString("en")} tokens are left to draw from. Crossed out: never drawn.`;
  }

  row({ token, plain, kept }) {
    const bars = make("span", { class: "bars" }, this.bar("plain", plain), this.bar("kept", kept));
    const told = `${percent(plain)} by the model, ${percent(kept)} when drawn`;
    return make(
      "li",
      { class: kept ? "" : "cut", title: told },
      make("code", {}, visible(token)),
      bars,
      make("span", { class: "number" }, percent(kept)),
    );
  }

  bar(kind, share) {
    const bar = make("i", { class: kind });
    bar.style.width = `${(100 * share) / this.longest}%`;
    return bar;
  }
}
