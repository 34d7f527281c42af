"use strict";
// Moving over the graph: drag, wheel, buttons, the small map.

let dragged = false; // a press that moved is no click

const canvasSize = () => byId("canvas").getBoundingClientRect();

function applyCamera() {
  if (!scene.layer) return;
  scene.layer.setAttribute(
    "transform",
    `translate(${camera.x} ${camera.y}) scale(${camera.scale})`,
  );
  const { width, height } = canvasSize();
  const set = (name, value) => scene.window.setAttribute(name, value);
  set("x", -camera.x / camera.scale);
  set("y", -camera.y / camera.scale);
  set("width", width / camera.scale);
  set("height", height / camera.scale);
}

// Readable from the start of the graph rather than all of it at once.
function resetCamera() {
  const { width } = canvasSize();
  camera.scale = Math.min(1, Math.max(0.55, (width - 40) / Math.max(1, scene.width)));
  camera.x = (width - scene.width * camera.scale) / 2;
  camera.y = 20;
}

function fitCamera() {
  const { width, height } = canvasSize();
  camera.scale = Math.min(1.2, (width - 40) / scene.width, (height - 40) / scene.height);
  camera.x = (width - scene.width * camera.scale) / 2;
  camera.y = (height - scene.height * camera.scale) / 2;
  applyCamera();
}

function zoomBy(factor, atX, atY) {
  const { width, height } = canvasSize();
  const [x, y] = [atX ?? width / 2, atY ?? height / 2];
  const scale = Math.min(3, Math.max(0.04, camera.scale * factor));
  camera.x = x - ((x - camera.x) * scale) / camera.scale;
  camera.y = y - ((y - camera.y) * scale) / camera.scale;
  camera.scale = scale;
  applyCamera();
}

function centreOn(spot) {
  if (!spot) return;
  const { width, height } = canvasSize();
  camera.scale = Math.max(camera.scale, 0.8);
  camera.x = width / 2 - spot.x * camera.scale;
  camera.y = height / 2 - spot.y * camera.scale;
  applyCamera();
}

// What was clicked stays under the pointer although the drawing around it moved.
function keepInPlace(before, after) {
  if (!before || !after) return;
  camera.x += (before.x - after.x) * camera.scale;
  camera.y += (before.y - after.y) * camera.scale;
  applyCamera();
}

function moveByMap(event) {
  event.stopPropagation();
  const map = event.currentTarget;
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(
    map.getScreenCTM().inverse(),
  );
  const { width, height } = canvasSize();
  camera.x = width / 2 - point.x * camera.scale;
  camera.y = height / 2 - point.y * camera.scale;
  applyCamera();
}

function watchCanvas() {
  const canvas = byId("canvas");
  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = false;
    if (event.button === 0 && !event.target.closest(".minimap"))
      last = { x: event.clientX, y: event.clientY };
  });
  addEventListener("pointermove", (event) => {
    if (!last) return;
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    if (!dragged && Math.hypot(dx, dy) < 4) return;
    dragged = true;
    canvas.classList.add("dragging");
    camera.x += dx;
    camera.y += dy;
    last = { x: event.clientX, y: event.clientY };
    applyCamera();
  });
  addEventListener("pointerup", () => {
    last = null;
    canvas.classList.remove("dragging");
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return; // the page keeps scrolling
      event.preventDefault();
      const { left, top } = canvasSize();
      zoomBy(Math.exp(-event.deltaY * 0.0016), event.clientX - left, event.clientY - top);
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const step = {
      ArrowUp: [0, 60],
      ArrowDown: [0, -60],
      ArrowLeft: [60, 0],
      ArrowRight: [-60, 0],
    }[event.key];
    if (event.key === "Escape") canvas.blur();
    if (!step) return;
    event.preventDefault();
    camera.x += step[0];
    camera.y += step[1];
    applyCamera();
  });
}
