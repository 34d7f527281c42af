"use strict";
// The panel at the side: one op, one primitive or one traced node.

const terms = (rows) =>
  h(
    "dl",
    {},
    rows
      .filter((row) => row[1] !== null && row[1] !== undefined && row[1] !== "")
      .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
const listed = (title, items) =>
  asList(items).length
    ? [
        h("h3", {}, title),
        h(
          "ul",
          {},
          asList(items).map((item) => h("li", {}, h("code", {}, asText(item)))),
        ),
      ]
    : [];
const expression = (title, source, value) => [
  h("h3", {}, title, h("span", { class: "soft" }, `  ${value}`)),
  h("pre", {}, asText(source)),
];

function timeBars(price) {
  if (!Number.isFinite(price.compute_ms)) return null;
  const widest = Math.max(price.compute_ms, price.memory_ms) || 1;
  const row = (name, ms, colour) => [
    h("span", { class: `bound-${name}` }, name),
    track(ms / widest, colour),
    h("span", { class: "num" }, duration(ms)),
  ];
  return h(
    "div",
    { class: "times" },
    row("compute", price.compute_ms, "var(--accent)"),
    row("memory", price.memory_ms, "var(--amber)"),
  );
}

function drawDetail() {
  const chosen = state.selected;
  let content = [h("p", { class: "soft" }, "Choose an op, a primitive or a node.")];
  if (chosen && chosen.op !== undefined) content = opDetail(chosen.op);
  else if (chosen && chosen.primitive !== undefined)
    content = primitiveDetail(unsupported()[chosen.primitive], chosen.primitive);
  else if (chosen && chosen.node !== undefined) content = [];
  if (chosen && chosen.node !== undefined) content = [...nodeDetail(chosen.node), ...content];
  byId("detail").replaceChildren(...content.flat().filter(Boolean));
  byId("detail").scrollTop = 0;
}

function opDetail(i) {
  const op = ops()[i];
  const { records, sum } = prices();
  const price = records[i];
  const values = (entries) =>
    Object.entries(entries || {}).map(([name, value]) => [name, asText(value)]);
  const dims = Object.entries(op.dims || {}).map(([name, value]) => [
    name,
    `${value} = ${grouped(evaluateAt(value, workload()))}`,
  ]);
  return [
    h(
      "div",
      { class: "kind" },
      swatch(kindColour(op.op)),
      op.op,
      h("span", {}, `\u00d7 ${op.count}`),
    ),
    h("h2", {}, op.name),
    h("div", { class: "figure" }, duration(price.total.ms)),
    h(
      "div",
      { class: "soft" },
      `${percent(price.total.ms / sum.ms)} of ${state.phase}: ${op.count} \u00d7 ${duration(price.ms)}, ${price.bound || "no"} bound`,
    ),
    timeBars(price),
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { type: "button", id: "show-in-graph", onclick: () => showOpInGraph(i) },
        "Show in graph",
      ),
    ),
    h("h3", {}, "Parameters"),
    terms(values(op.params)),
    h("h3", {}, "Dims"),
    terms(dims),
    ...expression("FLOPs", op.flops, si(price.flops, "FLOP")),
    ...expression("Bytes", op.bytes, si(price.bytes, "B")),
    h("h3", {}, "More"),
    terms([
      ["intensity", price.flops ? `${digits(price.intensity)} FLOP/byte` : null],
      [
        "weights",
        `${si(op.weight_bytes, "B")} each, ${si(op.weight_bytes * op.count, "B")} in all`,
      ],
      [
        "runs in",
        price.dtype && price.dtype !== op.compute_dtype && op.compute_dtype
          ? `${price.dtype}, the GPU has no ${op.compute_dtype}`
          : price.dtype || op.compute_dtype,
      ],
      ["layer", layerName(op.layer)],
      ["table axes", asList(op.axes).join(", ") || "none"],
      ["source", h("code", {}, op.source)],
    ]),
    ...listed("Where", op.where),
    ...listed("Rewrites", op.rewrites),
  ];
}

function primitiveDetail(item, index) {
  const price = primitivePrice(item);
  return [
    h(
      "div",
      { class: "kind", style: "color:var(--red)" },
      swatch("var(--red)"),
      `unsupported primitive, ${item.phase}`,
    ),
    h("h2", {}, item.primitive),
    h("div", { class: "figure" }, `\u2265 ${duration(price.all)}`),
    h(
      "div",
      { class: "soft" },
      `${item.count} \u00d7 ${duration(price.ms)}, ${price.bound ? `${price.bound} bound, ` : ""}in no total`,
    ),
    timeBars(price),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", onclick: () => openPrimitive(index) }, "Show in graph"),
    ),
    h("h3", {}, "Source"),
    h("code", {}, item.source),
    item.line_text ? h("pre", {}, item.line_text.trim()) : null,
    h("h3", {}, "Why no op claims it"),
    h("p", { style: "margin:0" }, item.reason),
    terms([
      ["nearest op", item.nearest || "none"],
      ["module", item.module_class],
      ["shape", item.shape],
      ["layer", layerName(item.layer)],
    ]),
    ...expression("FLOPs", item.flops, si(price.flops, "FLOP")),
    ...expression("Bytes", item.bytes, si(price.bytes, "B")),
    ...listed("Where", item.where),
  ];
}

function nodeDetail(i) {
  const graph = currentGraph();
  const node = graph.nodes[i];
  return [
    h(
      "div",
      { class: "kind" },
      swatch(node.group === "free" ? "var(--faint)" : nodeColour(node)),
      `traced node, ${node.group}`,
    ),
    h("h2", {}, node.t),
    terms([
      ["name", h("code", {}, node.n)],
      ["shape", h("code", {}, node.shape)],
      ["dtype", node.dtype],
      ["module", h("code", {}, node.module)],
      ["source", h("code", {}, node.source)],
      [node.group === "free" ? "free group" : null, node.group === "free" ? asText(node.g) : null],
    ]),
    node.group === "primitive" && state.selected.primitive === undefined
      ? h("p", { class: "soft" }, asText(node.g))
      : null,
    node.group === "op" ? h("h3", {}, "Part of") : null,
  ];
}
