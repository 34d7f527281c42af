"use strict";
// Verdict, key numbers, the table of ops, the table of unsupported primitives.

function drawVerdict() {
  const situation = REPORT.situation;
  const section = byId("verdict");
  section.className = `at-${situation}`;
  const known =
    REPORT.known_architecture === false ? "architecture not seen before" : "known architecture";
  const relatives = asList(REPORT.relatives)
    .slice(0, 3)
    .map((r) =>
      h(
        "li",
        {},
        `near ${r.architecture} (${Math.round(r.similarity * 100)} %)`,
        asList(r.differs).length ? `: ${asList(r.differs).join("; ")}` : "",
      ),
    );
  const quantization = REPORT.quantization || {};
  const notes = [...asList(REPORT.notes), ...asList(quantization.notes)].map((note) =>
    h("li", {}, asText(note)),
  );
  if (REPORT.full_depth)
    notes.unshift(h("li", {}, "traced at full depth: every layer, not one of each kind"));
  section.replaceChildren(
    h(
      "div",
      { class: "line" },
      h("span", { class: "big" }, situation),
      h("span", { class: "say" }, VIEW.sentence),
    ),
    h(
      "p",
      {},
      h("b", {}, REPORT.architecture),
      `, ${known}`,
      quantization.method ? `, ${quantization.method} weights` : "",
      `, ${REPORT.op_list.lowering} lowering`,
    ),
    (situation === "S3" && worstLink()) || "",
    relatives.length || notes.length ? h("ul", {}, relatives, notes) : "",
  );
}

function worstLink() {
  const worst = primitivesOf()[0];
  if (!worst) return null;
  const { item, price } = worst;
  return h(
    "a",
    { class: "jump", href: "#unsupported" },
    `Costliest: ${item.primitive} at ${item.source}, ${item.count} \u00d7 in ${item.phase}, at least ${duration(price.all)}`,
  );
}

function drawFacts() {
  const cache = REPORT.kv_cache || {};
  const point = workload();
  const held = cache.expression
    ? evaluateAt(cache.expression, { ...point, p: point.p + point.s, s: 0 })
    : NaN;
  const layers = REPORT.layers.reduce((sum, layer) => sum + layer.count, 0);
  const tiles = [
    [si(REPORT.parameters, "").replace("G", "B"), "parameters", grouped(REPORT.parameters)],
    [
      si(REPORT.weight_bytes, "B"),
      "weights",
      (REPORT.quantization || {}).method || "as configured",
    ],
    [String(layers), "layers", `${REPORT.layers.length} kinds`],
    [
      si(cache.bytes_per_token, "B"),
      "cache per token",
      Number.isFinite(held) ? `${si(held, "B")} after this step` : "all layers",
    ],
    ...PHASES.map((phase) => {
      const at = state.workloads[phase];
      return [
        duration(prices(phase).sum.ms),
        `${phase} at best`,
        `b ${at.b}, s ${at.s}, p ${at.p}`,
      ];
    }),
    [
      si(prices().sum.flops, "FLOP"),
      `work, ${state.phase}`,
      `${si(prices().sum.bytes, "B")} of traffic`,
    ],
  ];
  byId("facts").replaceChildren(
    ...tiles.map(([value, name, more]) =>
      h("div", {}, h("span", {}, name), h("b", {}, value), h("small", {}, more)),
    ),
  );
}

const COLUMNS = [
  // key, heading, is a number, value to sort by
  ["name", "op", false, (i) => ops()[i].name],
  ["kind", "kind", false, (i) => ops()[i].op],
  ["params", "parameters", false, (i) => VIEW.shorts[state.phase][i]],
  ["count", "count", true, (i) => ops()[i].count],
  ["ms", "per call", true, (i, r) => r[i].ms],
  ["share", "share", false, (i, r) => r[i].total[state.metric]],
  ["flops", "FLOPs", true, (i, r) => r[i].total.flops],
  ["bytes", "bytes", true, (i, r) => r[i].total.bytes],
  ["intensity", "FLOP/B", true, (i, r) => r[i].intensity],
  ["bound", "bound", false, (i, r) => r[i].bound || ""],
];

function drawOps() {
  const { records, sum } = prices();
  const head = h(
    "tr",
    {},
    COLUMNS.map(([key, label, number]) =>
      h(
        "th",
        {
          class: number ? "num" : null,
          "data-key": key,
          scope: "col",
          "aria-sort":
            state.sort.key === key ? (state.sort.down ? "descending" : "ascending") : null,
          onclick: () => sortBy(key),
        },
        label,
      ),
    ),
  );
  const body = h("tbody");
  const groups = state.grouped ? opsByLayer() : [{ layer: null, items: ops().map((_, i) => i) }];
  for (const { layer, items } of groups) {
    const shown = sorted(items.filter(matchesFilter), records);
    if (state.grouped && shown.length) body.append(bandRow(layer, items, records, sum));
    for (const i of shown) body.append(opRow(i, records[i], sum));
  }
  byId("op-table").replaceChildren(h("table", {}, h("thead", {}, head), body));
}

function sortBy(key) {
  const textual = COLUMNS.find((column) => column[0] === key)[2] === false && key !== "share";
  state.sort = state.sort.key === key ? { key, down: !state.sort.down } : { key, down: !textual };
  drawOps();
}

function matchesFilter(i) {
  if (!state.filter) return true;
  const op = ops()[i];
  const text = [
    op.name,
    op.op,
    VIEW.shorts[state.phase][i],
    op.source,
    op.layer,
    ...asList(op.where),
  ]
    .join(" ")
    .toLowerCase();
  return state.filter
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

function sorted(items, records) {
  const column = COLUMNS.find(([key]) => key === state.sort.key);
  if (!column) return items;
  const sign = state.sort.down ? -1 : 1;
  const compare = (a, z) => (typeof a === "string" ? a.localeCompare(z) : (a || 0) - (z || 0));
  return [...items].sort((a, z) => sign * compare(column[3](a, records), column[3](z, records)));
}

function bandRow(layer, items, records, sum) {
  const add = (name) => items.reduce((total, i) => total + records[i].total[name], 0);
  return h(
    "tr",
    { class: "band" },
    h(
      "td",
      { colspan: 5 },
      layerName(layer),
      layer ? h("code", { class: "soft" }, `  ${layer}`) : "",
    ),
    h("td", {}, percent(add(state.metric) / (sum[state.metric] || 1))),
    h("td", { class: "num" }, si(add("flops"), "")),
    h("td", { class: "num" }, si(add("bytes"), "B")),
    h("td", {}),
    h("td", { class: "num" }, duration(add("ms"))),
  );
}

function rowActions(act) {
  return { tabindex: 0, onclick: act, onkeydown: (event) => event.key === "Enter" && act() };
}

function opRow(i, record, sum) {
  const op = ops()[i];
  const share = record.total[state.metric] / (sum[state.metric] || 1);
  return h(
    "tr",
    {
      ...rowActions(() => select({ op: i })),
      "data-op": i,
      class: isSelected({ op: i }) ? "selected" : null,
    },
    h("td", { class: "cut", title: op.name }, op.name),
    h("td", {}, h("span", { class: "tag" }, swatch(kindColour(op.op)), op.op)),
    h("td", { class: "cut mono", title: VIEW.shorts[state.phase][i] }, VIEW.shorts[state.phase][i]),
    h("td", { class: "num" }, op.count),
    h("td", { class: "num" }, duration(record.ms)),
    h(
      "td",
      {},
      h(
        "div",
        { class: "share" },
        h("span", { class: "num" }, percent(share)),
        track(share, kindColour(op.op)),
      ),
    ),
    h("td", { class: "num" }, record.flops ? si(record.total.flops, "") : "\u2013"),
    h("td", { class: "num" }, si(record.total.bytes, "B")),
    h("td", { class: "num" }, record.flops ? digits(record.intensity) : "\u2013"),
    h("td", { class: `bound-${record.bound}` }, record.bound || "\u2013"),
  );
}

function drawUnsupported() {
  const rows = primitivesOf();
  byId("unsupported").classList.toggle("some", rows.length > 0);
  if (!rows.length)
    return byId("unsupported-table").replaceChildren(
      h(
        "p",
        { class: "soft" },
        "None: every traced node belongs to an op, a pointwise cluster or a free group.",
      ),
    );
  const head = [
    "primitive",
    "where",
    "count",
    "at least",
    "work",
    "nearest op, and why it did not match",
  ];
  const body = rows.map(({ item, index, price }) =>
    h(
      "tr",
      {
        ...rowActions(() => openPrimitive(index)),
        "data-primitive": index,
        class: isSelected({ primitive: index }) ? "selected" : null,
      },
      h(
        "td",
        {},
        h("div", { class: "name" }, item.primitive),
        h("div", { class: "soft" }, item.phase),
        item.shape ? h("code", { class: "soft" }, item.shape) : null,
      ),
      h(
        "td",
        { class: "where" },
        h("code", {}, item.source),
        item.line_text ? h("pre", {}, item.line_text.trim()) : null,
        h(
          "div",
          { class: "soft" },
          [asList(item.where).slice(0, 2).join(", "), item.module_class].filter(Boolean).join("  "),
        ),
      ),
      h("td", { class: "num" }, item.count),
      h(
        "td",
        { class: "num" },
        h("b", {}, duration(price.all)),
        h("div", { class: "soft" }, `${duration(price.ms)} each`),
      ),
      h(
        "td",
        { class: "num" },
        si(price.flops * item.count, "FLOP"),
        h("div", { class: "soft" }, si(price.bytes * item.count, "B")),
      ),
      h("td", {}, h("b", {}, item.nearest || "none"), h("div", { class: "soft" }, item.reason)),
    ),
  );
  byId("unsupported-table").replaceChildren(
    h(
      "p",
      { class: "hint" },
      "No op claims these; they are in no total above. Costliest first, at least the roofline of the primitive alone. A row opens its node in the graph.",
    ),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((label, i) => h("th", { class: i > 1 && i < 5 ? "num" : null }, label)),
          ),
        ),
        h("tbody", {}, body),
      ),
    ),
  );
}
