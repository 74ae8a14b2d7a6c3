// The manager's pages keep up: a small question every few seconds, and only what changed is put in place.

import { announce, ask } from "./plumbline.js";

const desk = document.querySelector(".desk");
const away = document.getElementById("away");
const EVERY = 4000;

/** Puts the parts of the page as it is now in the place of those that differ, unless somebody is at them. */
async function renew() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of desk.querySelectorAll("[data-live]")) {
    const now = page.getElementById(part.id);
    if (now === null || now.innerHTML === part.innerHTML || part.contains(document.activeElement)) continue;
    part.innerHTML = "";
    part.append(...now.childNodes);
  }
  desk.dataset.stamp = page.querySelector(".desk").dataset.stamp;
}

async function keepUp() {
  if (!document.hidden) {
    try {
      const { stamp } = await ask("GET", "/manager/stamp");
      if (stamp !== desk.dataset.stamp) await renew();
      away.hidden = true;
    } catch {
      away.hidden = false;
    }
  }
  setTimeout(keepUp, EVERY);
}

if (desk.querySelector("[data-live]")) setTimeout(keepUp, EVERY);

// On a phone the places are a row that scrolls: the present one should be in sight.
document.querySelector(".places [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

for (const field of document.querySelectorAll("[data-select]")) {
  field.addEventListener("focus", () => field.select());
}

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue; // only pages over https or from this machine may write there
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
    button.textContent = "Copied";
    announce("Copied");
  });
}
