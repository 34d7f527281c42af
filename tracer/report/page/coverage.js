"use strict";
// What the measured tables hold: each op of the phase, and the points that are missing.

const MARKS = { exact: "S1", interpolable: "S1", outside: "S2", missing: "S3" };
const ORIGINS = { measured: "S1", interpolated: "S1", extrapolated: "S2", empirical: "S3" };
const mark = (name, marks) => h("span", { class: `mark-${marks[name] || "S3"}` }, name);

const tableOf = (head, body) =>
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
          head.map(([label, number]) => h("th", { class: number ? "num" : null }, label)),
        ),
      ),
      h("tbody", {}, body),
    ),
  );

function drawCoverage() {
  const found = VIEW.coverage;
  byId("coverage").hidden = !found;
  if (!found) return;
  const asked = found.points;
  byId("coverage").replaceChildren(
    h(
      "h2",
      {},
      "Measurements",
      h("span", { class: `mark chip ${found.missing ? "S2" : "S1"}` }, found.where),
    ),
    h(
      "p",
      { class: "hint" },
      `${grouped(asked)} points asked, ${grouped(found.missing)} to measure. An op is covered at every point of the serving envelope and of this report's workload, or it has points to measure.`,
    ),
    h("p", {}, found.summaries[state.phase]),
    coveredOps(found.rows[state.phase]),
    h(
      "ul",
      { class: "soft" },
      [...found.unmeasured, ...asList(REPORT.coverage.notes)].map((text) => h("li", {}, text)),
    ),
    found.groups.length ? h("h3", {}, "To measure") : "",
    found.groups.length ? missingGroups(found.groups) : "",
  );
}

function coveredOps(rows) {
  const head = [
    ["op", false],
    ["kind", false],
    ["parameters", false],
    ["coverage", false],
    ["points", true],
    ["bound", true],
    ["price", true],
    ["\u00b1", true],
    ["origin", false],
    ["\u00d7 bound", true],
  ];
  const body = rows.map((row) => {
    const all = Object.values(row.points).reduce((sum, count) => sum + count, 0);
    return h(
      "tr",
      { tip: [row.reason, row.nearest && `nearest row: ${row.nearest}`].filter(Boolean).join("\n") },
      h("td", { class: "cut", title: row.name }, row.name),
      h("td", {}, h("span", { class: "tag" }, swatch(kindColour(row.op)), row.op)),
      h("td", { class: "cut mono", title: row.parameters }, row.parameters),
      h("td", {}, mark(row.coverage, MARKS)),
      h("td", { class: "num" }, `${row.points.exact + row.points.interpolable} of ${all}`),
      h("td", { class: "num" }, duration(row.bound_ms)),
      h("td", { class: "num" }, h("b", {}, duration(row.ms))),
      h("td", { class: "num" }, `${(row.uncertainty * 100).toFixed(0)} %`),
      h("td", {}, mark(row.origin, ORIGINS)),
      h("td", { class: "num" }, row.bound_ms ? digits(row.ms / row.bound_ms) : "\u2013"),
    );
  });
  return tableOf(head, body);
}

function missingGroups(groups) {
  const head = [
    ["op", false],
    ["points", true],
    ["sizes", false],
    ["at least", true],
    ["why, and the nearest row", false],
    ["needed by", false],
  ];
  const body = groups.map((group) =>
    h(
      "tr",
      {},
      h("td", {}, h("b", {}, group.op), h("div", { class: "soft mono" }, group.parameters)),
      h("td", { class: "num" }, grouped(group.points)),
      h("td", { class: "mono" }, group.sizes),
      h("td", { class: "num" }, duration(group.bound_ms)),
      h("td", {}, group.reason, group.nearest ? h("div", { class: "soft mono" }, group.nearest) : ""),
      h(
        "td",
        { class: "cut", title: group.needed_by.join("\n") },
        `${group.needed_by[0]}${group.needed_by.length > 1 ? `, ${group.needed_by.length - 1} more` : ""}`,
      ),
    ),
  );
  return tableOf(head, body);
}
