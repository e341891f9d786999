"use strict";

// Of the picture that is shown: its paint, small enough to be read pixel by pixel, as the answer's colours.
const READ_SIDE_PX = 1024;
const FADE = [255, 255, 255, 205];
let read = null;

function paintOf(view) {
  const image = view.querySelector(".paint");
  if (!image.complete || !image.naturalWidth) return null;
  if (read === null || read.image !== image) {
    const scale = Math.min(1, READ_SIDE_PX / Math.max(image.naturalWidth, image.naturalHeight));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
    canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false; // a mixed colour would be nobody's
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    read = { image, pixels: context.getImageData(0, 0, canvas.width, canvas.height) };
  }
  return read.pixels;
}

const viewShown = () => document.querySelector("#view .view");

function fadeAllBut(colour) {
  const view = viewShown();
  if (!view) return;
  const only = view.querySelector(".only");
  const pixels = colour === null ? null : paintOf(view);
  only.hidden = pixels === null;
  if (pixels === null) return;
  only.width = pixels.width;
  only.height = pixels.height;
  const context = only.getContext("2d");
  const faded = context.createImageData(pixels.width, pixels.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const is_it = pixels.data[at + 3] && colour.every((part, channel) => pixels.data[at + channel] === part);
    if (!is_it) faded.data.set(FADE, at);
  }
  context.putImageData(faded, 0, 0);
}

const colourOf = (entry) => entry.dataset.colour.split(",").map(Number);
const entryAt = (event) => (event.target.closest ? event.target.closest("#view .legend button") : null);

function nameUnder(event) {
  const view = viewShown();
  if (!view) return;
  const under = view.querySelector(".under");
  const image = view.querySelector(".paint");
  const box = image.getBoundingClientRect();
  const across = (event.clientX - box.left) / box.width;
  const down = (event.clientY - box.top) / box.height;
  const pixels = across >= 0 && across < 1 && down >= 0 && down < 1 ? paintOf(view) : null;
  if (pixels === null) {
    under.textContent = "";
    return;
  }
  const at = 4 * (Math.floor(down * pixels.height) * pixels.width + Math.floor(across * pixels.width));
  const colour = pixels.data.slice(at, at + 3).join(",");
  const entry = [...view.querySelectorAll(".legend button")].find((each) => each.dataset.colour === colour);
  under.textContent = !pixels.data[at + 3] ? "nothing found" : entry ? entry.dataset.name : "";
}

for (const [kind, colour] of [["pointerover", colourOf], ["focusin", colourOf], ["pointerout", () => null], ["focusout", () => null]]) {
  document.addEventListener(kind, (event) => {
    const entry = entryAt(event);
    if (entry) fadeAllBut(colour(entry));
  });
}
for (const kind of ["pointermove", "pointerdown"]) {
  document.addEventListener(kind, (event) => {
    if (event.target.closest && event.target.closest("#view .stack")) nameUnder(event);
  });
}
