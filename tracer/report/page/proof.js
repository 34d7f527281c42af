"use strict";
// What the numbers rest on: conservation, cache, measurements, versions; and the checklist.

function pairs(rows) {
  return h(
    "table",
    {},
    h(
      "tbody",
      {},
      rows.map(([name, value, more]) =>
        h(
          "tr",
          {},
          h("td", { class: "soft" }, name),
          h("td", { class: "num" }, value),
          h("td", { class: "soft" }, more || ""),
        ),
      ),
    ),
  );
}

function balance(name, expected, found, reference) {
  const gap = expected - found;
  return [
    name,
    grouped(found),
    gap === 0 ? "exact" : `${reference} has ${grouped(expected)}, ${grouped(gap)} missing`,
  ];
}

function drawProof() {
  const sums = REPORT.conservation;
  const uncounted = sums.flops.uncounted || 0;
  const known = sums.flops.ops === sums.flops.counter ? sums.flops.ops : sums.flops.ops - uncounted;
  const idle = sums.weights.idle || 0;
  const held = sums.weights.ops + (sums.weights.primitives || 0) + idle;
  const parts = ["ops", "pointwise", "free", "primitive"];
  const lost = sums.nodes.total - parts.reduce((sum, part) => sum + (sums.nodes[part] || 0), 0);
  const rows = [
    balance("weight bytes", sums.weights.model, held, "the model"),
    balance("FLOPs", sums.flops.counter, known, "the counter"),
  ];
  if (idle) rows.push(["idle weight bytes", grouped(idle), "read by no forward pass"]);
  for (const item of REPORT.idle || [])
    rows.push([
      `\u2003${item.module || "the model"} x${item.count}`,
      grouped(item.bytes),
      `${item.class}: ${item.note}`,
    ]);
  if (uncounted)
    rows.push(["FLOPs beside", grouped(uncounted), "in ops the counter does not know"]);
  rows.push([
    "nodes",
    grouped(sums.nodes.total),
    lost ? `${grouped(lost)} in no place` : "each in one place",
  ]);
  for (const part of parts) rows.push([`\u2003${part}`, grouped(sums.nodes[part] || 0), ""]);
  const cache = REPORT.kv_cache || {};
  const coverage = REPORT.coverage || {};
  byId("proof").replaceChildren(
    h(
      "div",
      {},
      h(
        "h2",
        {},
        "Conservation",
        h(
          "span",
          { class: `mark chip ${sums.exact ? "S1" : "S3"}` },
          sums.exact ? "exact" : "not exact",
        ),
      ),
      pairs(rows),
    ),
    h(
      "div",
      {},
      h("h2", {}, "Cache"),
      pairs([
        ["per token", `${grouped(cache.bytes_per_token)} B`],
        ["per sequence", `${grouped(cache.bytes_per_sequence || 0)} B`, "at any length"],
      ]),
      cache.expression ? h("pre", {}, asText(cache.expression)) : null,
      coverage.checked
        ? null
        : [
            h("h2", { style: "margin-top:18px" }, "Measurements"),
            h("p", { class: "soft" }, "Not checked against tables."),
          ],
    ),
    h(
      "div",
      {},
      h("h2", {}, "Made with"),
      pairs(Object.entries(REPORT.versions || {}).map(([name, value]) => [name, asText(value)])),
      pairs(
        Object.entries(REPORT.timing_s || {}).map(([name, value]) => [name, duration(value * 1e3)]),
      ),
      h(
        "p",
        { class: "soft" },
        asList(REPORT.rewrites).length
          ? `Rewrites: ${asList(REPORT.rewrites).map(asText).join(", ")}`
          : "No rewrites.",
      ),
    ),
    asList(REPORT.checklist).length ? checklist() : "",
  );
}

function checklist() {
  return h(
    "div",
    { class: "wide", id: "checklist" },
    h("h2", {}, "Checklist"),
    h(
      "ol",
      {},
      REPORT.checklist.map((item) =>
        h(
          "li",
          {},
          h("b", {}, item.what),
          h(
            "div",
            { class: "soft" },
            item.file ? h("code", {}, item.file) : null,
            [item.module, item.inputs]
              .filter(Boolean)
              .map((text) => `  ${asText(text)}`)
              .join(","),
          ),
        ),
      ),
    ),
  );
}
