"use strict";
// Puts the page together and answers the reader.

const isSelected = (what) =>
  state.selected !== null &&
  (what.op !== undefined
    ? state.selected.op === what.op
    : state.selected.primitive === what.primitive);

function select(what) {
  state.selected = what;
  for (const element of document.querySelectorAll("tr[data-op], .cell[data-op], circle[data-op]"))
    element.classList.toggle("selected", Number(element.dataset.op) === what.op);
  for (const row of document.querySelectorAll("tr[data-primitive]"))
    row.classList.toggle("selected", Number(row.dataset.primitive) === what.primitive);
  drawDetail();
  lightSelection();
}

function openGraph(layer) {
  state.layer = layer;
  drawGraph();
  byId("graph").scrollIntoView({ block: "start" });
}

function showOpInGraph(i) {
  state.layer = ops()[i].layer || "";
  drawGraph();
  const box = collapsedGraph(scene.graph).boxes.find((candidate) => candidate.op === i);
  if (box) centreOn(scene.place.get(box.id));
  byId("graph").scrollIntoView({ block: "start" });
  select({ op: i });
}

function openPrimitive(index) {
  const item = unsupported()[index];
  if (item.phase !== state.phase) setPhase(item.phase);
  state.layer = item.layer || "";
  drawGraph();
  const node = nodeOfPrimitive(item);
  if (node !== null) centreOn(scene.place.get(`node${node}`));
  byId("graph").scrollIntoView({ block: "start" });
  select({ primitive: index, node: node ?? undefined });
}

function setPhase(phase) {
  const old = state.selected && state.selected.op !== undefined ? ops()[state.selected.op] : null;
  state.phase = phase;
  const same = old ? ops().findIndex((op) => op.name === old.name && op.layer === old.layer) : -1;
  state.selected = same >= 0 ? { op: same } : costliest();
  drawAll();
}

function setMetric(metric) {
  state.metric = metric;
  drawCosts();
}

function costliest() {
  const { records } = prices();
  let best = null;
  records.forEach((record, i) => {
    if (best === null || record.total.ms > records[best].total.ms) best = i;
  });
  return best === null ? null : { op: best };
}

function drawWorkload() {
  const names = { b: "batch", s: "new tokens per sequence", p: "cached tokens per sequence" };
  byId("workload").replaceChildren(
    ...["b", "s", "p"].map((axis) =>
      h(
        "label",
        { title: names[axis] },
        axis,
        h("input", {
          name: axis,
          type: "number",
          min: axis === "p" ? 0 : 1,
          step: 1,
          value: workload()[axis],
          disabled: !RATES,
          "aria-label": names[axis],
          oninput: (event) => {
            if (!event.target.checkValidity() || event.target.value === "") return;
            workload()[axis] = Number(event.target.value);
            drawPrices();
          },
        }),
      ),
    ),
  );
}

function drawCosts() {
  segments(
    "metrics",
    [
      ["ms", "time"],
      ["bytes", "bytes"],
      ["flops", "FLOPs"],
    ],
    state.metric,
    setMetric,
  );
  drawIcicle();
  drawKinds();
  drawOps();
}

// Everything that follows from the workload.
function drawPrices() {
  const { sum } = prices();
  byId("phase-total").replaceChildren(
    h("b", {}, duration(sum.ms)),
    ` ${state.phase} at the speed of light of ${REPORT.system}`,
  );
  drawVerdict();
  drawFacts();
  drawLayerMap();
  drawCosts();
  drawRoofline();
  drawUnsupported();
  drawCoverage();
  drawDetail();
  if (graphSeen) drawGraph(true);
}

function drawAll() {
  segments(
    "phases",
    PHASES.map((phase) => [phase, phase]),
    state.phase,
    setPhase,
  );
  drawWorkload();
  drawPrices();
  if (graphSeen) drawGraph();
}

// The graph is drawn when it comes near the window: opening the page does not wait for it.
let graphSeen = false;
function watchGraph() {
  new IntersectionObserver(
    (entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      if (graphSeen) return;
      graphSeen = true;
      if (scene.root === null) drawGraph();
    },
    { rootMargin: "400px" },
  ).observe(byId("graph"));
}

function expandAll(open) {
  const graph = currentGraph();
  for (const box of collapsedGraph(graph).boxes)
    if (canOpen(box)) state.expanded[open ? "add" : "delete"](openKey(graph, box));
  drawGraph();
}

function watchTools() {
  byId("workload").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("input", (event) => {
    state.filter = event.target.value.trim();
    drawOps();
  });
  byId("grouped").addEventListener("change", (event) => {
    state.grouped = event.target.checked;
    if (!state.grouped && state.sort.key === "order") state.sort = { key: "share", down: true };
    drawOps();
  });
  byId("show-free").addEventListener("change", (event) => {
    state.showFree = event.target.checked;
    drawGraph();
  });
  byId("expand-all").addEventListener("click", () => expandAll(true));
  byId("collapse-all").addEventListener("click", () => expandAll(false));
  byId("zoom-in").addEventListener("click", () => zoomBy(1.3));
  byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.3));
  byId("zoom-fit").addEventListener("click", fitCamera);
  byId("zoom-full").addEventListener("click", (event) => {
    const full = byId("graph").classList.toggle("full");
    document.body.classList.toggle("full-graph", full);
    event.target.textContent = full ? "Back to page" : "Full window";
    applyCamera();
  });
}

function start() {
  byId("model-name").textContent = REPORT.model;
  const chip = byId("verdict-chip");
  chip.textContent = REPORT.situation;
  chip.classList.add(REPORT.situation);
  const largest = [...REPORT.layers].sort((a, z) => z.count - a.count)[0];
  const worst = primitivesOf()[0];
  state.layer = worst ? worst.item.layer || "" : largest ? largest.id : "";
  state.selected = costliest();
  drawAll();
  drawProof();
  watchTools();
  watchTips();
  watchCanvas();
  watchGraph();
}

start();
