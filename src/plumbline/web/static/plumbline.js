// What every page does: asks the server, makes elements, speaks to screen readers, switches light and dark.

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";

/** A request that was answered with a refusal: `status`, and the server's sentence as the message. */
export class Refused extends Error {
  constructor(status, sentence, wait) {
    super(sentence);
    this.status = status;
    this.wait = wait;
  }
}

/** JSON in, JSON out. Throws `Refused` for an answer that is no, and what `fetch` throws where none came in time. */
export async function ask(method, address, body, patience = 30000) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const answer = await fetch(address, { method, headers, body: sent, signal: AbortSignal.timeout(patience) });
  const data = await answer.json().catch((error) => (answer.ok ? Promise.reject(error) : {}));
  if (answer.ok) return data;
  const wait = Number(answer.headers.get("Retry-After"));
  throw new Refused(answer.status, data.error ?? `The server said ${answer.status}.`, wait);
}

/** Why a request came to nothing: the server's own sentence, or that there was none. */
export function inPlainWords(error) {
  return error instanceof Refused ? error.message : "The server does not answer.";
}

/** An element: `make("p", { class: "soft", onclick: f }, "text", child)`. Text stays text. */
export function make(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Says something to those who do not see the page. */
export function announce(text) {
  const place = document.getElementById("announcer");
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}

/** Whether a key press belongs to a field or a dialog and not to the page. */
export function isTyping(event) {
  return event.isComposing || Boolean(event.target.closest?.("input, textarea, select, dialog, [contenteditable]"));
}

/** A random name for something that must be stored once, however often it is sent. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What this browser was told to remember under a name; null when nothing. */
export function kept(name) {
  return localStorage.getItem(name);
}

/** Remembers a text; says whether there was room for it. */
export function keep(name, text) {
  try {
    localStorage.setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

document.getElementById("theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
  announce(dark ? "Light" : "Dark");
});
