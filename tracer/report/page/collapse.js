"use strict";
// From the traced nodes of a layer to boxes: one per op, pointwise cluster and primitive. Free nodes
// are seen through: what reads a hidden node reads what the hidden node reads.

// Lengths and shapes flow everywhere and say nothing about data.
function carriesData(node) {
  return !(node.group === "free" && (node.g === "shape" || /sym_size|sym_numel/.test(node.t)));
}

function edgeIndices(graph) {
  const names = new Map(graph.nodes.map((node, i) => [node.n, i]));
  const at = (end) => (typeof end === "number" ? end : names.get(end));
  return graph.edges.map(([from, to]) => [at(from), at(to)]);
}

// Node indices such that every edge goes forward; what is on a cycle comes last.
function topologicalOrder(count, edges) {
  const next = Array.from({ length: count }, () => []);
  const degree = new Array(count).fill(0);
  for (const [from, to] of edges) {
    next[from].push(to);
    degree[to]++;
  }
  const order = [];
  for (let i = 0; i < count; i++) if (degree[i] === 0) order.push(i);
  for (let at = 0; at < order.length; at++)
    for (const to of next[order[at]]) if (--degree[to] === 0) order.push(to);
  return order;
}

// Edges between shown nodes, through any number of hidden ones.
function visibleEdges(graph, shown) {
  const edges = edgeIndices(graph);
  const inputs = graph.nodes.map(() => []);
  for (const [from, to] of edges) inputs[to].push(from);
  const reach = graph.nodes.map(() => new Set());
  const result = [];
  for (const i of topologicalOrder(graph.nodes.length, edges)) {
    for (const from of inputs[i]) {
      if (shown[from]) reach[i].add(from);
      else if (carriesData(graph.nodes[from]))
        for (const source of reach[from]) reach[i].add(source);
    }
    if (shown[i]) for (const from of reach[i]) result.push([from, i]);
  }
  return result;
}

function boxEdges(owner, edges) {
  const seen = new Map();
  for (const [from, to] of edges) {
    const [a, z] = [owner[from], owner[to]];
    if (a !== z) seen.set(`${a}>${z}`, [a, z]);
  }
  return [...seen.values()];
}

// One owner per op. An op whose nodes sit before and after another op would close a cycle: such an
// op falls apart into its connected pieces, and those into nodes if that is not enough.
function assignOwners(graph, shown, edges) {
  const owner = graph.nodes.map((node, i) => (node.group === "op" ? `op${node.g}` : `node${i}`));
  for (const split of [connectedPieces, (members) => members.map((i) => [i])]) {
    const tangled = cyclicBoxes(owner, boxEdges(owner, edges));
    if (!tangled.size) break;
    for (const box of tangled) {
      const members = owner.flatMap((name, i) => (name === box && shown[i] ? [i] : []));
      split(members, edges).forEach((piece, k) => piece.forEach((i) => (owner[i] = `${box}/${k}`)));
    }
  }
  return owner;
}

function connectedPieces(members, edges) {
  const root = new Map(members.map((i) => [i, i]));
  const find = (i) => (root.get(i) === i ? i : find(root.get(i)));
  for (const [from, to] of edges)
    if (root.has(from) && root.has(to)) root.set(find(to), find(from));
  const pieces = new Map();
  for (const i of members) {
    if (!pieces.has(find(i))) pieces.set(find(i), []);
    pieces.get(find(i)).push(i);
  }
  return [...pieces.values()];
}

// Boxes left over when sources and then sinks are taken away again and again.
function cyclicBoxes(owner, edges) {
  let left = edges;
  for (;;) {
    const reads = new Set(left.map((edge) => edge[1]));
    const feeds = new Set(left.map((edge) => edge[0]));
    const kept = left.filter(([from, to]) => reads.has(from) && feeds.has(to));
    if (kept.length === left.length) return new Set(left.flat());
    left = kept;
  }
}

// -> {boxes: [{id, kind, op, nodes}], edges: [[id, id]], inner: [[node, node]]}
function collapseGraph(graph, showFree) {
  const shown = graph.nodes.map((node) => showFree || node.group !== "free");
  const edges = visibleEdges(graph, shown);
  const owner = assignOwners(graph, shown, edges);
  const boxes = new Map();
  graph.nodes.forEach((node, i) => {
    if (!shown[i]) return;
    const op = node.group === "op" ? node.g : null;
    if (!boxes.has(owner[i]))
      boxes.set(owner[i], { id: owner[i], kind: node.group, op, nodes: [] });
    boxes.get(owner[i]).nodes.push(i);
  });
  return { boxes: [...boxes.values()], edges: boxEdges(owner, edges), inner: edges };
}
