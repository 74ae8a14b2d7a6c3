// Dragging an answer by its handle onto a place of the tray, by mouse, pen or finger. The keyboard does the same with
// a digit or F; nothing can be done by dragging alone.

const SLIP = 4; // pixels that a press may move and still be a click

/** `drop(place, slot)` is called when an answer is let go over an element with `data-slot`. */
export function makeDraggable(handle, place, drop) {
  handle.addEventListener("pointerdown", (press) => {
    if (press.button !== 0) return;
    press.preventDefault();
    handle.setPointerCapture(press.pointerId);
    const drag = new Drag(handle, press);
    const stop = new AbortController();
    const { signal } = stop;
    const end = (slot) => {
      stop.abort();
      drag.end();
      if (slot) drop(place, slot === "flag" ? slot : Number(slot));
    };
    handle.addEventListener("pointermove", (move) => drag.move(move), { signal });
    handle.addEventListener("pointerup", () => end(drag.slot), { signal });
    handle.addEventListener("pointercancel", () => end(null), { signal });
    addEventListener("keydown", (key) => key.key === "Escape" && end(null), { signal });
  });
}

class Drag {
  constructor(handle, press) {
    this.handle = handle;
    this.press = press;
    this.ghost = null;
    this.over = null;
  }

  get slot() {
    return this.over?.dataset.slot;
  }

  move({ clientX, clientY }) {
    if (!this.ghost) {
      if (Math.hypot(clientX - this.press.clientX, clientY - this.press.clientY) < SLIP) return;
      this.ghost = document.createElement("div");
      this.ghost.className = "ghost";
      this.ghost.textContent = this.handle.dataset.letter;
      document.body.append(this.ghost);
      document.body.classList.add("dragging");
    }
    this.ghost.style.transform = `translate(${clientX}px, ${clientY}px)`;
    const over = document.elementFromPoint(clientX, clientY)?.closest("[data-slot]") ?? null;
    if (over === this.over) return;
    this.over?.classList.remove("over");
    over?.classList.add("over");
    this.over = over;
  }

  end() {
    this.over?.classList.remove("over");
    this.ghost?.remove();
    document.body.classList.remove("dragging");
  }
}
