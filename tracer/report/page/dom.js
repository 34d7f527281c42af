"use strict";
// Building elements, formatting numbers, colours. Text from the report only ever becomes text nodes.

const byId = (id) => document.getElementById(id);

function fill(element, options, children) {
  for (const [name, value] of Object.entries(options || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else if (name === "tip") element.dataset.tip = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3))
    if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}

const h = (tag, options, ...children) => fill(document.createElement(tag), options, children);
const svg = (tag, options, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), options, children);

function segments(id, choices, current, choose) {
  byId(id).replaceChildren(
    ...choices.map(([value, label]) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(value === current),
          "data-value": value,
          onclick: () => choose(value),
        },
        label,
      ),
    ),
  );
}

const PREFIXES = [
  [1e18, "E"],
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
function digits(value) {
  return value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}
function si(value, unit) {
  if (!Number.isFinite(value)) return "\u2013";
  const step = PREFIXES.find(([factor]) => Math.abs(value) >= factor);
  if (!step) return `${Number.isInteger(value) ? value : digits(value)} ${unit}`.trim();
  return `${digits(value / step[0])} ${step[1]}${unit}`;
}
function duration(ms) {
  if (!Number.isFinite(ms)) return "\u2013";
  if (ms >= 1000) return `${digits(ms / 1000)} s`;
  if (ms >= 1) return `${digits(ms)} ms`;
  return ms === 0 ? "0" : ms >= 1e-3 ? `${digits(ms * 1e3)} \u00b5s` : `${digits(ms * 1e6)} ns`;
}
function percent(share) {
  if (!Number.isFinite(share)) return "\u2013";
  return share > 0 && share < 0.0005 ? "<0.1 %" : `${(share * 100).toFixed(1)} %`;
}
const measureText = (value) =>
  state.metric === "ms" ? duration(value) : si(value, state.metric === "bytes" ? "B" : "FLOP");
const grouped = (value) =>
  Number.isFinite(value) ? Math.round(value).toLocaleString("en-US") : "\u2013";
const asList = (value) =>
  value === null || value === undefined || value === ""
    ? []
    : Array.isArray(value)
      ? value
      : [value];
const asText = (value) =>
  typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);

// Red stays with primitives.
const KIND_COLOURS = {
  gemm: "#3f7fd0",
  bmm: "#5b9fe0",
  moe: "#d97f1e",
  pointwise: "#2f9a80",
  embedding: "#7b8798",
  context_attention: "#8459c9",
  generation_attention: "#8459c9",
  context_mla: "#8459c9",
  generation_mla: "#8459c9",
  encoder_attention: "#9a6ad6",
  sparse_attention: "#a855b8",
  sparse_indexer: "#bd74c9",
  causal_conv1d: "#b3962b",
  mamba1: "#92803a",
  mamba2: "#92803a",
  gated_delta_rule: "#a08a1e",
};
const SPARE_COLOURS = ["#6b7f3f", "#4d8a99", "#9c6b4f", "#6f6fb5", "#b0678f", "#5e8f5a"];
function kindColour(kind) {
  if (kind === "primitive") return "var(--red)";
  if (Object.hasOwn(KIND_COLOURS, kind)) return KIND_COLOURS[kind];
  let sum = 0;
  for (const letter of String(kind)) sum = (sum * 31 + letter.charCodeAt(0)) % 9973;
  return SPARE_COLOURS[sum % SPARE_COLOURS.length];
}
const LAYER_COLOURS = [
  "#3f7fd0",
  "#d97f1e",
  "#2f9a80",
  "#8459c9",
  "#b3962b",
  "#b0678f",
  "#4d8a99",
  "#6b7f3f",
  "#9c6b4f",
  "#6f6fb5",
  "#7b8798",
];
const layerColour = (index) => LAYER_COLOURS[index % LAYER_COLOURS.length];
const swatch = (colour) => h("i", { class: "swatch", style: `background:${colour}` });
const track = (share, colour) =>
  h(
    "div",
    { class: "track" },
    h("i", {
      style: `width:${Math.min(100, (share || 0) * 100).toFixed(2)}%;background:${colour}`,
    }),
  );

function watchTips() {
  const tip = byId("tip");
  document.addEventListener("pointermove", (event) => {
    const owner = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !owner || event.buttons > 0;
    if (tip.hidden) return;
    if (tip.textContent !== owner.dataset.tip) tip.textContent = owner.dataset.tip;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 10}px`;
  });
}
