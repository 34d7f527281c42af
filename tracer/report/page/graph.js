"use strict";
// The traced graph of one layer: boxes that open into their nodes, zoom, pan, and a map of it all.

const BOX = { width: 216, height: 48, nodeWidth: 168, nodeHeight: 32, head: 30, pad: 12 };
const camera = { x: 0, y: 0, scale: 1 };
const scene = {
  root: null,
  layer: null,
  window: null,
  width: 0,
  height: 0,
  place: new Map(),
  graph: null,
};
const collapsed = new WeakMap(); // graph -> [without free nodes, with them]

const nodeColour = (node) =>
  node.group === "primitive"
    ? "var(--red)"
    : node.group === "op"
      ? kindColour(ops()[node.g].op)
      : "var(--faint)";

function collapsedGraph(graph) {
  if (!collapsed.has(graph)) collapsed.set(graph, []);
  return (collapsed.get(graph)[Number(state.showFree)] ??= collapseGraph(graph, state.showFree));
}

function cutText(text, width, size) {
  const room = Math.floor(width / (size * 0.56));
  return text.length <= room ? text : `${text.slice(0, Math.max(1, room - 1))}\u2026`;
}

// A path loses its head: the end is what tells its neighbours apart.
function cutPath(text, width, size) {
  const room = Math.floor(width / (size * 0.6));
  return text.length <= room ? text : `\u2026${text.slice(1 - room)}`;
}

// The inside of an open box has its own drawing; the box is as large as that.
function innerLayout(graph, view, box) {
  const mine = new Set(box.nodes);
  const nodes = box.nodes.map((i) => ({ id: i, w: BOX.nodeWidth, h: BOX.nodeHeight }));
  return layoutGraph(
    nodes,
    view.inner.filter(([from, to]) => mine.has(from) && mine.has(to)),
  );
}

function drawGraph(keepCamera) {
  const graph = currentGraph();
  const canvas = byId("canvas");
  if (!graph)
    return canvas.replaceChildren(
      h("p", { class: "hint", style: "padding:12px" }, "This report carries no graphs."),
    );
  state.layer = graph.layer || "";
  segments(
    "graph-layers",
    graphsOf(state.phase).map((g) => [
      g.layer || "",
      `${layerName(g.layer || "")}  (${g.nodes.length})`,
    ]),
    state.layer,
    openGraph,
  );
  const view = collapsedGraph(graph);
  const inner = new Map();
  const sizes = view.boxes.map((box) => {
    if (!canOpen(box) || !state.expanded.has(openKey(graph, box)))
      return {
        id: box.id,
        w: box.kind === "free" ? BOX.nodeWidth : BOX.width,
        h: box.kind === "free" ? BOX.nodeHeight : BOX.height,
      };
    inner.set(box.id, innerLayout(graph, view, box));
    const { width, height } = inner.get(box.id);
    return {
      id: box.id,
      w: Math.max(BOX.width, width + 2 * BOX.pad),
      h: height + BOX.head + 2 * BOX.pad,
    };
  });
  const layout = layoutGraph(sizes, view.edges);
  Object.assign(scene, { graph, width: layout.width, height: layout.height, place: new Map() });
  const layerMs = ops().reduce(
    (sum, op, i) => sum + ((op.layer || "") === state.layer ? prices().records[i].ms : 0),
    0,
  );
  const edges = layout.routes.map((route) =>
    svg("path", {
      class: `edge${route.long ? " long" : ""}`,
      d: route.path,
      "data-from": route.from,
      "data-to": route.to,
      "marker-end": "url(#arrow)",
    }),
  );
  const boxes = view.boxes.map((box, k) =>
    drawBox(graph, box, sizes[k], layout.place.get(box.id), inner.get(box.id), layerMs),
  );
  mountScene(canvas, edges, boxes, view, sizes, layout);
  byId("graph-hint").textContent =
    `${graph.nodes.length} traced nodes in ${view.boxes.length} boxes. Drag to move, click here and use the wheel (or Ctrl and the wheel) to zoom, click a box to open it.`;
  if (!keepCamera) resetCamera();
  applyCamera();
  lightSelection();
}

const canOpen = (box) => box.nodes.length > 1 || box.kind === "op";
const openKey = (graph, box) => `${graph.phase}|${graph.layer || ""}|${box.id}`;

function mountScene(canvas, edges, boxes, view, sizes, layout) {
  scene.layer = svg("g", {}, edges, boxes);
  const arrow = svg(
    "marker",
    {
      id: "arrow",
      viewBox: "0 0 8 8",
      refX: 7,
      refY: 4,
      markerWidth: 8,
      markerHeight: 8,
      markerUnits: "userSpaceOnUse",
      orient: "auto",
    },
    svg("path", { d: "M0 0L8 4L0 8z", fill: "var(--edge)" }),
  );
  scene.root = svg("svg", { class: "scene" }, svg("defs", {}, arrow), scene.layer);
  scene.window = svg("rect", { class: "window", "stroke-width": 1.5 });
  const marks = view.boxes.map((box, k) => {
    const at = layout.place.get(box.id);
    const colour =
      box.kind === "free" ? "var(--line)" : nodeColour(scene.graph.nodes[box.nodes[0]]);
    return svg("rect", {
      x: at.x - sizes[k].w / 2,
      y: at.y - sizes[k].h / 2,
      width: sizes[k].w,
      height: sizes[k].h,
      fill: colour,
    });
  });
  const height = Math.min(320, Math.max(48, (96 * layout.height) / Math.max(1, layout.width)));
  const map = svg(
    "svg",
    {
      class: "minimap",
      viewBox: `-20 -20 ${layout.width + 40} ${layout.height + 40}`,
      style: `height:${height}px`,
      "aria-hidden": "true",
    },
    marks,
    scene.window,
  );
  map.addEventListener("pointerdown", moveByMap);
  map.addEventListener("pointermove", (event) => event.buttons && moveByMap(event));
  canvas.replaceChildren(scene.root, map);
}

function boxTexts(graph, box) {
  const node = graph.nodes[box.nodes[0]];
  if (box.kind === "op") {
    const op = ops()[box.op];
    return [op.name, `${op.op}  ${VIEW.shorts[state.phase][box.op]}`];
  }
  return [node.t.replace(/^aten\./, ""), box.kind === "primitive" ? node.source : node.shape || ""];
}

function drawBox(graph, box, size, at, inside, layerMs) {
  const [left, top] = [at.x - size.w / 2, at.y - size.h / 2];
  const node = graph.nodes[box.nodes[0]];
  const [title, sub] = boxTexts(graph, box);
  const record = box.kind === "op" ? prices().records[box.op] : null;
  const share = record && layerMs ? record.ms / layerMs : 0;
  const colour = nodeColour(node);
  const textWidth = size.w - 20 - (share >= 0.0005 ? 48 : 0);
  scene.place.set(box.id, at);
  for (const i of box.nodes) scene.place.set(`node${i}`, at);
  const element = svg(
    "g",
    {
      class: `box ${box.kind}${inside ? " open" : ""}`,
      transform: `translate(${left.toFixed(1)} ${top.toFixed(1)})`,
      "data-box": box.id,
      "data-op": box.op,
      tip: `${title}\n${sub}\n${box.nodes.length} node${box.nodes.length > 1 ? "s" : ""}, ${node.module || "layer"}\n${node.source}${box.kind === "primitive" ? `\n${node.g}` : ""}`,
    },
    svg("rect", { class: "body", width: size.w, height: size.h, rx: 6 }),
    box.kind === "free" ? null : svg("rect", { width: 4, height: size.h, rx: 2, fill: colour }),
    svg("text", { class: "title", x: 12, y: 19 }, cutPath(title, textWidth, 12)),
    share >= 0.0005
      ? svg("text", { class: "sub", x: size.w - 8, y: 19, "text-anchor": "end" }, percent(share))
      : null,
    inside || box.kind === "free"
      ? null
      : svg("text", { class: "sub", x: 12, y: 34 }, cutText(sub, size.w - 20, 10.5)),
    share && !inside
      ? svg("rect", {
          x: 12,
          y: size.h - 8,
          height: 3,
          rx: 1.5,
          width: Math.max(1, share * (size.w - 24)),
          fill: colour,
        })
      : null,
    inside ? insideOf(graph, box, size, inside, at) : null,
  );
  element.addEventListener("click", () => clickBox(graph, box));
  return element;
}

function insideOf(graph, box, size, inside, at) {
  const shift = { x: (size.w - inside.width) / 2, y: BOX.head + BOX.pad };
  const edges = inside.routes.map((route) =>
    svg("path", { class: "edge", d: route.path, "marker-end": "url(#arrow)" }),
  );
  const nodes = box.nodes.map((i) => {
    const node = graph.nodes[i];
    const spot = inside.place.get(i);
    scene.place.set(`node${i}`, {
      x: at.x - size.w / 2 + shift.x + spot.x,
      y: at.y - size.h / 2 + shift.y + spot.y,
    });
    const element = svg(
      "g",
      {
        class: "box node",
        transform: `translate(${(spot.x - BOX.nodeWidth / 2).toFixed(1)} ${(spot.y - BOX.nodeHeight / 2).toFixed(1)})`,
        "data-node": i,
        tip: `${node.t}  ${node.n}\n${node.shape} ${node.dtype || ""}\n${node.module}\n${node.source}`,
      },
      svg("rect", { class: "body", width: BOX.nodeWidth, height: BOX.nodeHeight, rx: 4 }),
      svg(
        "text",
        { x: 8, y: 13, class: "title" },
        cutText(node.t.replace(/^aten\./, ""), BOX.nodeWidth - 16, 12),
      ),
      svg(
        "text",
        { x: 8, y: 26, class: "sub" },
        cutText(node.shape || "", BOX.nodeWidth - 16, 10.5),
      ),
    );
    element.addEventListener("click", (event) => {
      event.stopPropagation();
      if (!dragged) select({ ...ownerOf(graph, i), node: i });
    });
    return element;
  });
  return svg("g", { transform: `translate(${shift.x} ${shift.y})` }, edges, nodes);
}

function ownerOf(graph, i) {
  const node = graph.nodes[i];
  if (node.group === "op") return { op: node.g };
  const primitive = node.group === "primitive" ? primitiveOfNode(graph, node) : null;
  return primitive === null ? {} : { primitive };
}

function clickBox(graph, box) {
  if (dragged) return;
  if (canOpen(box)) {
    const before = scene.place.get(box.id);
    toggle(state.expanded, openKey(graph, box));
    select(ownerOf(graph, box.nodes[0]));
    drawGraph(true);
    keepInPlace(before, scene.place.get(box.id));
  } else select({ ...ownerOf(graph, box.nodes[0]), node: box.nodes[0] });
}

function toggle(set, key) {
  if (!set.delete(key)) set.add(key);
}

function lightSelection() {
  if (!scene.layer) return;
  const chosen = state.selected || {};
  const lit = new Set();
  for (const box of scene.layer.querySelectorAll(".box")) {
    const node = box.dataset.node !== undefined ? Number(box.dataset.node) : null;
    const mine =
      node !== null
        ? node === chosen.node
        : chosen.op !== undefined
          ? box.dataset.op === String(chosen.op)
          : box.dataset.box === `node${chosen.node}`;
    box.classList.toggle("selected", mine);
    if (mine && node === null) lit.add(box.dataset.box);
  }
  for (const edge of scene.layer.querySelectorAll(".edge[data-from]"))
    edge.classList.toggle("lit", lit.has(edge.dataset.from) || lit.has(edge.dataset.to));
}
