"use strict";
// Layer map, icicle of shares and bars by op kind.

function drawLayerMap() {
  const stacks = new Map();
  REPORT.layers.forEach((layer, i) => {
    if (!stacks.has(layer.stack)) stacks.set(layer.stack, []);
    stacks.get(layer.stack).push({ layer, colour: layerColour(i) });
  });
  const parts = [...stacks].map(([stack, kinds]) => stackStrip(stack, kinds));
  byId("layer-map").replaceChildren(...parts, layerLegend());
}

function stackStrip(stack, kinds) {
  const cells = kinds.flatMap((kind) => kind.layer.indices.map((index) => ({ index, ...kind })));
  cells.sort((a, z) => a.index - z.index);
  const step = 1000 / Math.max(cells.length, 24);
  const marks = cells.filter(
    (_, i) => i === 0 || i === cells.length - 1 || (i % 10 === 0 && cells.length - i > 3),
  );
  const picture = svg(
    "svg",
    { viewBox: "0 0 1000 50", role: "img", "aria-label": `layers of ${stack}` },
    cells.map(({ index, layer, colour }, i) =>
      svg("rect", {
        x: i * step + 0.75,
        y: 0,
        width: step - 1.5,
        height: 34,
        rx: 3,
        fill: colour,
        stroke: index === layer.representative ? "var(--text)" : null,
        "stroke-width": index === layer.representative ? 2 : null,
        tip: `${stack}.${index}  ${layer.class}\nrepresented by layer ${layer.representative}, ${layer.count} like it`,
        onclick: () => openGraph(layer.id),
      }),
    ),
    marks.map((cell) =>
      svg(
        "text",
        { x: (cells.indexOf(cell) + 0.5) * step, y: 47, "text-anchor": "middle" },
        cell.index,
      ),
    ),
  );
  return h(
    "div",
    {},
    h(
      "div",
      { class: "stack-name" },
      h("code", {}, stack),
      h("span", {}, `${cells.length} layers, the outlined ones were traced`),
    ),
    picture,
  );
}

function layerLegend() {
  const { records, sum } = prices();
  const rows = REPORT.layers.map((layer, i) => {
    const mine = records.filter((_, k) => (ops()[k].layer || "") === layer.id);
    const total = mine.reduce((a, record) => a + record.total.ms, 0);
    return h(
      "button",
      { type: "button", onclick: () => openGraph(layer.id), "data-layer": layer.id },
      swatch(layerColour(i)),
      h("span", {}, layer.class),
      h("span", { class: "num" }, `\u00d7 ${layer.count}`),
      h("code", {}, VIEW.ranges[i]),
      h("span", { class: "num soft" }, `${duration(total / layer.count)} per layer`),
      h("b", { class: "num" }, percent(total / sum.ms)),
    );
  });
  return h("div", { class: "legend" }, rows);
}

function drawIcicle() {
  const { records, sum } = prices();
  const whole = sum[state.metric] || 1;
  const bands = h("div", { class: "row" });
  const cells = h("div", { class: "row ops" });
  let at = 0;
  for (const { layer, items } of opsByLayer()) {
    const start = at;
    for (const i of items) {
      const width = records[i].total[state.metric] / whole;
      cells.append(icicleCell(i, at, width, records[i]));
      at += width;
    }
    const name = layerName(layer);
    bands.append(
      h(
        "button",
        {
          type: "button",
          class: "cell band",
          style: `left:${start * 100}%;width:${(at - start) * 100}%`,
          tip: `${name}\n${layer || ""}\n${percent(at - start)}`,
          onclick: () => openGraph(layer),
        },
        `${name}  ${percent(at - start)}`,
      ),
    );
  }
  byId("icicle").replaceChildren(bands, cells);
  byId("cost-hint").textContent =
    `${measureText(whole)} in ${state.phase}: layer kinds above, their ops below in order of execution`;
  byId("metric-word").textContent = { ms: "time", bytes: "traffic", flops: "arithmetic" }[
    state.metric
  ];
}

function icicleCell(i, at, width, record) {
  const op = ops()[i];
  const shown = width > 0.055;
  return h(
    "button",
    {
      type: "button",
      class: `cell${isSelected({ op: i }) ? " selected" : ""}`,
      "data-op": i,
      "aria-label": op.name,
      tabindex: width > 0.002 ? null : -1,
      style: `left:${at * 100}%;width:${width * 100}%;background:${kindColour(op.op)}${shown ? "" : ";padding:0"}`,
      tip: `${op.name}  (${op.op})\n${measureText(record.total[state.metric])}, ${percent(width)}\n${op.count} \u00d7 ${duration(record.ms)}, ${record.bound || "unknown"} bound`,
      onclick: () => select({ op: i }),
    },
    shown
      ? [
          width > 0.16 ? op.name : op.name.split(".").pop(),
          h("small", {}, `${percent(width)}  ${op.op}`),
        ]
      : "",
  );
}

function drawKinds() {
  const { records, sum } = prices();
  const totals = new Map();
  records.forEach((record, i) => {
    const kind = ops()[i].op;
    totals.set(kind, (totals.get(kind) || 0) + record.total[state.metric]);
  });
  const rows = [...totals].sort((a, z) => z[1] - a[1]);
  const widest = rows.length ? rows[0][1] : 1;
  const compute =
    records.reduce((a, r) => a + (r.bound === "compute" ? r.total.ms : 0), 0) / sum.ms;
  byId("kinds").replaceChildren(
    h("figcaption", {}, "By op kind"),
    ...rows.map(([kind, value]) =>
      h(
        "div",
        { class: "kind-row", tip: `${kind}\n${measureText(value)}` },
        h("span", { class: "tag" }, swatch(kindColour(kind)), ` ${kind}`),
        track(value / widest, kindColour(kind)),
        h("span", { class: "num" }, percent(value / (sum[state.metric] || 1))),
      ),
    ),
    h("figcaption", { style: "margin-top:14px" }, "Time by bound"),
    h(
      "div",
      { class: "kind-row" },
      h("span", { class: "bound-compute" }, "compute"),
      track(compute, "var(--accent)"),
      h("span", { class: "num" }, percent(compute)),
    ),
    h(
      "div",
      { class: "kind-row" },
      h("span", { class: "bound-memory" }, "memory"),
      track(1 - compute, "var(--amber)"),
      h("span", { class: "num" }, percent(1 - compute)),
    ),
  );
}
