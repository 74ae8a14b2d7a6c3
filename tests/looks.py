"""What a page's looks are measured by, as functions that run in the page."""

from __future__ import annotations

# The contrast of each piece of text with what lies behind it, as WCAG 2 computes it; disabled controls do not count.
CONTRASTS = """() => {
  const square = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const canvas = square.getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      layers.push(parse(getComputedStyle(each).backgroundColor));
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (colour) => {
    const even = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const [red, green, blue] = colour.map((part) => even(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("button:disabled, .unseen, .jump")) continue;
    if (!element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
    const background = behind(element);
    let opacity = 1;
    for (let each = element; each; each = each.parentElement) opacity *= Number(getComputedStyle(each).opacity);
    const ink = parse(getComputedStyle(element).color);
    const seen = over([...ink.slice(0, 3), ink[3] * opacity], background);
    const [one, other] = [light(seen), light(background)].sort((a, b) => b - a);
    found.push([walker.currentNode.textContent.trim().slice(0, 40), (one + 0.05) / (other + 0.05)]);
  }
  return found;
}"""

# What reaches over the right edge of the window, fixed and scrolled parts apart.
OVER_THE_EDGE = """() => [...document.querySelectorAll("body *")]
  .filter((each) => each.checkVisibility() && !each.closest(".unseen, .jump, .scroll"))
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
  .map((each) => each.tagName + "." + each.className)"""
