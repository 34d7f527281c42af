"use strict";
// The report, what the reader has chosen, and the price of every op at that workload.

const REPORT = JSON.parse(document.getElementById("report-data").textContent);
const VIEW = REPORT.view;
const PHASES = Object.keys(REPORT.op_list.phases);
const RATES = REPORT.system_rates || null;

const state = {
  phase: PHASES[0],
  workloads: structuredClone(VIEW.workloads),
  metric: "ms",
  selected: null, // {op} or {primitive} or {node, graph}, numbers into the current phase
  layer: null, // the layer whose graph is drawn
  showFree: false,
  expanded: new Set(),
  grouped: true,
  filter: "",
  sort: { key: "order", down: false },
};

const ops = () => REPORT.op_list.phases[state.phase];
const workload = () => state.workloads[state.phase];
const unsupported = () => REPORT.unsupported || [];

const compiled = new Map(); // expression -> function; equal ops share one
function evaluateAt(expression, point) {
  if (!compiled.has(expression)) {
    let run = () => NaN;
    try {
      run = compileExpression(expression);
    } catch (error) {
      console.warn(error.message);
    }
    compiled.set(expression, run);
  }
  return compiled.get(expression)(point);
}

// A dtype the GPU has no rate for runs at the next wider one it has.
const WIDER = ["nvfp4", "mxfp4", "fp8", "int8", "float16", "bfloat16", "float32"];
function computeRate(dtype) {
  const rates = RATES.flops_per_s;
  if (rates[dtype]) return { dtype, rate: rates[dtype] };
  const found = WIDER.slice(Math.max(0, WIDER.indexOf(dtype))).find((name) => rates[name]);
  const name = found || Object.keys(rates)[0];
  return { dtype: name, rate: rates[name] };
}

function roofline(item, point, given) {
  const flops = evaluateAt(item.flops, point);
  const bytes = evaluateAt(item.bytes, point);
  const intensity = bytes ? flops / bytes : 0;
  if (!RATES) return { flops, bytes, intensity, ...given };
  const { dtype, rate } = computeRate(item.compute_dtype || "bfloat16");
  const compute_ms = (flops / rate) * 1e3;
  const memory_ms = (bytes / RATES.bytes_per_s) * 1e3;
  const known = [compute_ms, memory_ms].filter(Number.isFinite);
  const ms = known.length ? Math.max(...known) : given.ms;
  const bound = compute_ms > memory_ms ? "compute" : "memory";
  return { flops, bytes, intensity, compute_ms, memory_ms, ms, bound, dtype };
}

const priceCache = new Map();
// One record per op of a phase: of one occurrence, and `total` over all of them by measure.
function prices(phase = state.phase) {
  const point = state.workloads[phase];
  const key = `${phase} ${point.b} ${point.s} ${point.p}`;
  if (!priceCache.has(key)) {
    const given = (REPORT.sol && REPORT.sol[phase]) || [];
    const records = REPORT.op_list.phases[phase].map((op, i) => {
      const one = roofline(op, point, given[i] || { ms: NaN });
      const times = (x) => (Number.isFinite(x) ? x * op.count : 0);
      return {
        ...one,
        total: { ms: times(one.ms), bytes: times(one.bytes), flops: times(one.flops) },
      };
    });
    const sum = { ms: 0, bytes: 0, flops: 0 };
    for (const record of records) for (const name in sum) sum[name] += record.total[name];
    if (priceCache.size > 40) priceCache.clear();
    priceCache.set(key, { records, sum });
  }
  return priceCache.get(key);
}

function primitivePrice(item) {
  const point = state.workloads[item.phase] || workload();
  const one = roofline(item, point, { ms: item.bound_ms });
  return { ...one, all: one.ms * item.count };
}

function primitivesOf(phase) {
  const rows = unsupported().map((item, index) => ({ item, index, price: primitivePrice(item) }));
  return rows
    .filter((row) => !phase || row.item.phase === phase)
    .sort((a, z) => (z.price.all || 0) - (a.price.all || 0));
}

function layerOf(id) {
  return REPORT.layers.find((layer) => layer.id === id) || null;
}

function layerName(id) {
  const layer = layerOf(id);
  return layer ? `${layer.class} \u00d7 ${layer.count}` : id || "outside the layers";
}

// Ops of the phase by layer, in execution order: [{layer, items: [index]}]
function opsByLayer() {
  const groups = new Map();
  ops().forEach((op, i) => {
    const layer = op.layer || "";
    if (!groups.has(layer)) groups.set(layer, []);
    groups.get(layer).push(i);
  });
  return [...groups].map(([layer, items]) => ({ layer, items }));
}

const graphsOf = (phase) => (REPORT.graphs || []).filter((graph) => graph.phase === phase);
function currentGraph() {
  const graphs = graphsOf(state.phase);
  return graphs.find((graph) => (graph.layer || "") === state.layer) || graphs[0] || null;
}

// The node of an unsupported primitive: same layer, target and source line.
function nodeOfPrimitive(item) {
  const graph = graphsOf(item.phase).find((g) => (g.layer || "") === (item.layer || ""));
  if (!graph) return null;
  const hits = graph.nodes
    .map((node, i) => ({ node, i }))
    .filter(({ node }) => node.group === "primitive" && node.source === item.source);
  const hit = hits.find(({ node }) => node.t === item.primitive) || hits[0];
  return hit ? hit.i : null;
}

function primitiveOfNode(graph, node) {
  const same = (item) =>
    item.phase === graph.phase &&
    (item.layer || "") === (graph.layer || "") &&
    item.source === node.source;
  const hits = unsupported()
    .map((item, i) => ({ item, i }))
    .filter(({ item }) => same(item));
  const hit = hits.find(({ item }) => item.primitive === node.t) || hits[0];
  return hit ? hit.i : null;
}
