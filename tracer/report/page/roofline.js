"use strict";
// Every op of the phase on the roofline of the system.

const PLOT = { width: 620, height: 300, left: 46, right: 104, top: 16, bottom: 34 };
function drawRoofline() {
  const figure = byId("roofline");
  if (!RATES) return figure.replaceChildren();
  const { records, sum } = prices();
  const dots = records
    .map((record, i) => ({ record, i }))
    .filter(({ record }) => record.flops > 0 && record.ms > 0);
  dots.sort((a, z) => z.record.total.ms - a.record.total.ms);
  const rates = Object.entries(RATES.flops_per_s).filter(([name]) =>
    dots.some(({ record }) => record.dtype === name),
  );
  const knees = rates.map(([, rate]) => rate / RATES.bytes_per_s);
  const low = Math.min(...knees, ...dots.map(({ record }) => record.intensity)) / 3;
  const high = Math.max(...knees, ...dots.map(({ record }) => record.intensity)) * 3;
  const [x0, x1] = [Math.log10(low), Math.log10(high)];
  const [y0, y1] = [
    Math.log10(RATES.bytes_per_s * low),
    Math.log10(Math.max(...rates.map(([, rate]) => rate))) + 0.15,
  ];
  const x = (v) =>
    PLOT.left + ((Math.log10(v) - x0) / (x1 - x0)) * (PLOT.width - PLOT.left - PLOT.right);
  const y = (v) =>
    PLOT.height -
    PLOT.bottom -
    ((Math.log10(v) - y0) / (y1 - y0)) * (PLOT.height - PLOT.top - PLOT.bottom);
  const caption = h(
    "figcaption",
    {},
    `Roofline of ${REPORT.system}: each dot an op at its speed of light, its area the share of time`,
  );
  if (!dots.length) return figure.replaceChildren(caption);
  const parts = [
    ...axes(x, y, x0, x1, y0, y1),
    ...roofs(x, y, rates, low, high),
    ...dots.map(({ record, i }) => rooflineDot(x, y, record, i, sum.ms)),
    ...dotLabels(x, y, dots, sum.ms),
  ];
  figure.replaceChildren(
    caption,
    svg("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img" }, parts),
  );
}

// The three largest dots are named, below the dot and below any name already there.
function dotLabels(x, y, dots, whole) {
  const taken = [];
  return dots.slice(0, 3).map(({ record, i }) => {
    const at = { x: x(record.intensity), y: y(attained(record)) + 12 + radius(record, whole) };
    while (taken.some((t) => Math.abs(t.x - at.x) < 110 && Math.abs(t.y - at.y) < 13)) at.y += 13;
    taken.push(at);
    return svg(
      "text",
      { x: at.x, y: at.y, "text-anchor": "middle", style: "fill:var(--text)" },
      ops()[i].name,
    );
  });
}

const attained = (record) => (record.flops / record.ms) * 1e3;
const radius = (record, whole) => 3 + Math.sqrt(record.total.ms / whole) * 20;

function rooflineDot(x, y, record, i, whole) {
  const op = ops()[i];
  return svg("circle", {
    cx: x(record.intensity),
    cy: y(attained(record)),
    r: radius(record, whole),
    fill: kindColour(op.op),
    class: isSelected({ op: i }) ? "selected" : null,
    "data-op": i,
    onclick: () => select({ op: i }),
    tip: `${op.name}  (${op.op})\n${digits(record.intensity)} FLOP/byte, ${record.bound} bound\n${percent(record.total.ms / whole)} of time`,
  });
}

function axes(x, y, x0, x1, y0, y1) {
  const parts = [];
  const short = (value) => (value < 1 ? String(value) : si(value, "").replace(/\.0+(?= |$)/, ""));
  for (let e = Math.ceil(x0); e <= x1; e++)
    parts.push(
      svg("line", {
        class: "grid",
        x1: x(10 ** e),
        x2: x(10 ** e),
        y1: PLOT.top,
        y2: PLOT.height - PLOT.bottom,
      }),
      svg(
        "text",
        { x: x(10 ** e), y: PLOT.height - PLOT.bottom + 14, "text-anchor": "middle" },
        short(10 ** e),
      ),
    );
  for (let e = Math.ceil(y0); e <= y1; e++)
    parts.push(
      svg("line", {
        class: "grid",
        x1: PLOT.left,
        x2: PLOT.width - PLOT.right,
        y1: y(10 ** e),
        y2: y(10 ** e),
      }),
      svg("text", { x: PLOT.left - 5, y: y(10 ** e) + 4, "text-anchor": "end" }, short(10 ** e)),
    );
  parts.push(
    svg(
      "text",
      { x: PLOT.width - PLOT.right, y: PLOT.height - 4, "text-anchor": "end" },
      "FLOP per byte",
    ),
    svg("text", { x: 2, y: 10 }, "FLOP/s"),
  );
  return parts;
}

function roofs(x, y, rates, low, high) {
  const bandwidth = RATES.bytes_per_s;
  const slope = Math.sqrt(low * Math.min(...rates.map(([, rate]) => rate / bandwidth)));
  const name = svg(
    "text",
    { x: x(slope) - 8, y: y(bandwidth * slope) - 8, "text-anchor": "end" },
    si(bandwidth, "B/s"),
  );
  return [
    name,
    ...rates.flatMap(([dtype, rate]) => [
      svg("path", {
        class: "roof",
        d: `M${x(low)} ${y(bandwidth * low)}L${x(rate / bandwidth)} ${y(rate)}L${x(high)} ${y(rate)}`,
      }),
      svg("text", { x: PLOT.width - PLOT.right + 5, y: y(rate) + 4 }, `${dtype} ${si(rate, "")}`),
    ]),
  ];
}
