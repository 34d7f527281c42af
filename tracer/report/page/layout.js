"use strict";
// Layered drawing of a directed acyclic graph: longest-path layers, barycentre order, then
// x positions by isotonic regression (least squares that keeps order and distance).

const LAYOUT = { gapX: 26, gapY: 34, laneWidth: 10, sweeps: 10 };

// nodes: [{id, w, h}], edges: [[from, to]] -> {width, height, place: Map id -> {x, y}, routes}
// Parts that no edge joins are drawn each for itself: the largest at the left, the others beside it.
function layoutGraph(nodes, edges) {
  const parts = connectedParts(nodes, edges).map((part) => layoutPart(part.nodes, part.edges));
  parts.sort((a, z) => z.place.size - a.place.size);
  const whole = { width: 0, height: 0, place: new Map(), routes: [] };
  const area = parts.reduce((sum, part) => sum + part.width * part.height, 0);
  const shelf = parts.reduce((most, part) => Math.max(most, part.height), Math.sqrt(area));
  let [x, y, column] = [0, 0, 0];
  for (const part of parts) {
    if (y > 0 && y + part.height > shelf) [x, y, column] = [x + column + LAYOUT.gapX * 2, 0, 0];
    for (const [id, spot] of part.place) whole.place.set(id, { x: spot.x + x, y: spot.y + y });
    for (const route of part.routes)
      whole.routes.push({ ...route, path: routePath(route.lane, x, y) });
    whole.width = Math.max(whole.width, x + part.width);
    whole.height = Math.max(whole.height, y + part.height);
    column = Math.max(column, part.width);
    y += part.height + LAYOUT.gapY;
  }
  return whole;
}

function connectedParts(nodes, edges) {
  const root = new Map(nodes.map((node) => [node.id, node.id]));
  const find = (id) => {
    while (root.get(id) !== id) {
      root.set(id, root.get(root.get(id)));
      id = root.get(id);
    }
    return id;
  };
  for (const [from, to] of edges) root.set(find(to), find(from));
  const parts = new Map();
  for (const node of nodes) {
    if (!parts.has(find(node.id))) parts.set(find(node.id), { nodes: [], edges: [] });
    parts.get(find(node.id)).nodes.push(node);
  }
  for (const edge of edges) parts.get(find(edge[0])).edges.push(edge);
  return [...parts.values()];
}

function layoutPart(nodes, edges) {
  const index = new Map(nodes.map((node, i) => [node.id, i]));
  const cells = nodes.map((node) => ({ w: node.w, h: node.h, up: [], down: [], layer: 0, x: 0 }));
  const pairs = edges.map(([from, to]) => [index.get(from), index.get(to)]);
  assignLayers(cells, pairs);
  // In a large graph long edges get no lane: thousands of them would only be lines past boxes.
  const maxLane = nodes.length > 1500 ? 8 : 80;
  const lanes = pairs.map(([from, to]) => makeLane(cells, from, to, maxLane));
  const layers = [];
  cells.forEach((cell, i) => (layers[cell.layer] ??= []).push(i));
  for (let i = 0; i < layers.length; i++) layers[i] ??= [];
  orderLayers(cells, layers);
  placeX(cells, layers);
  return measure(nodes, cells, layers, pairs, lanes);
}

function assignLayers(cells, pairs) {
  const degree = cells.map(() => 0);
  const next = cells.map(() => []);
  for (const [from, to] of pairs) {
    next[from].push(to);
    degree[to]++;
  }
  const queue = cells.map((_, i) => i).filter((i) => degree[i] === 0);
  const order = [];
  for (let at = 0; at < queue.length; at++) {
    const from = queue[at];
    order.push(from);
    for (const to of next[from]) {
      cells[to].layer = Math.max(cells[to].layer, cells[from].layer + 1);
      if (--degree[to] === 0) queue.push(to);
    }
  }
  // Whatever only feeds others sinks to just above its first reader.
  const hasInput = new Set(pairs.map((pair) => pair[1]));
  for (const i of order.reverse()) {
    if (hasInput.has(i) || !next[i].length) continue;
    cells[i].layer = Math.min(...next[i].map((to) => cells[to].layer)) - 1;
  }
}

// An edge over several layers runs through one narrow cell per layer; a very long one does not.
function makeLane(cells, from, to, maxLane) {
  const span = cells[to].layer - cells[from].layer;
  const lane = [from];
  if (span > 1 && span <= maxLane)
    for (let layer = cells[from].layer + 1; layer < cells[to].layer; layer++) {
      cells.push({ w: LAYOUT.laneWidth, h: 0, up: [], down: [], layer, x: 0, lane: true });
      lane.push(cells.length - 1);
    }
  lane.push(to);
  if (span <= maxLane)
    for (let i = 1; i < lane.length; i++) {
      cells[lane[i - 1]].down.push(lane[i]);
      cells[lane[i]].up.push(lane[i - 1]);
    }
  return lane;
}

function countCrossings(cells, layers) {
  let total = 0;
  const rank = new Map();
  for (const layer of layers) layer.forEach((i, at) => rank.set(i, at));
  for (const layer of layers) {
    const ends = layer.flatMap((i) =>
      cells[i].down.map((to) => rank.get(to)).sort((a, b) => a - b),
    );
    for (let i = 0; i < ends.length; i++)
      for (let j = i + 1; j < ends.length; j++) if (ends[i] > ends[j]) total++;
  }
  return total;
}

function orderLayers(cells, layers) {
  let best = layers.map((layer) => [...layer]);
  const sweeps = cells.length > 4000 ? 2 : LAYOUT.sweeps;
  let least = countCrossings(cells, layers);
  for (let sweep = 0; sweep < sweeps && least > 0; sweep++) {
    const side = sweep % 2 ? "down" : "up";
    const rank = new Map();
    for (const layer of layers) layer.forEach((i, at) => rank.set(i, at));
    const sequence = sweep % 2 ? [...layers.keys()].reverse() : [...layers.keys()];
    for (const at of sequence) {
      const weight = new Map(
        layers[at].map((i, own) => {
          const near = cells[i][side].map((j) => rank.get(j));
          return [i, near.length ? near.reduce((a, b) => a + b, 0) / near.length : own];
        }),
      );
      layers[at].sort((a, b) => weight.get(a) - weight.get(b));
      layers[at].forEach((i, own) => rank.set(i, own));
    }
    const crossings = countCrossings(cells, layers);
    if (crossings < least) {
      least = crossings;
      best = layers.map((layer) => [...layer]);
    }
  }
  best.forEach((layer, at) => (layers[at] = layer));
}

// Pool adjacent violators: the closest positions to `wanted` with the given distances between them.
function keepApart(wanted, distances) {
  const offset = [0];
  distances.forEach((d, i) => offset.push(offset[i] + d));
  const pools = [];
  wanted.forEach((x, i) => {
    pools.push({ sum: (x.at - offset[i]) * x.weight, weight: x.weight, size: 1 });
    while (pools.length > 1) {
      const last = pools[pools.length - 1];
      const before = pools[pools.length - 2];
      if (before.sum / before.weight <= last.sum / last.weight) break;
      before.sum += last.sum;
      before.weight += last.weight;
      before.size += last.size;
      pools.pop();
    }
  });
  const result = [];
  for (const pool of pools)
    for (let i = 0; i < pool.size; i++) result.push(pool.sum / pool.weight + offset[result.length]);
  return result;
}

function placeX(cells, layers) {
  const distance = (a, b) => (cells[a].w + cells[b].w) / 2 + LAYOUT.gapX;
  for (const layer of layers) {
    let x = 0;
    layer.forEach((i, at) => {
      x += at ? distance(layer[at - 1], i) : 0;
      cells[i].x = x;
    });
    for (const i of layer) cells[i].x -= x / 2;
  }
  // Both directions settle the whole; the last rounds, downwards only, make chains straight.
  const rounds = cells.length > 4000 ? 4 : 24;
  for (let round = 0; round < rounds; round++) {
    const upwards = round % 2 === 1 && round < rounds - 3;
    const sequence = upwards ? [...layers].reverse() : layers;
    const sides = [upwards ? "down" : "up"];
    for (const layer of sequence) {
      const wanted = layer.map((i) => {
        const near = sides.flatMap((side) => cells[i][side]);
        if (!near.length) return { at: cells[i].x, weight: 0.05 };
        // Straight lanes matter more than centred boxes.
        const pull = near.map((j) => (cells[i].lane && cells[j].lane ? 8 : cells[j].lane ? 1 : 2));
        const sum = pull.reduce((a, b) => a + b, 0);
        return { at: near.reduce((a, j, k) => a + cells[j].x * pull[k], 0) / sum, weight: sum };
      });
      const gaps = layer.slice(1).map((i, at) => distance(layer[at], i));
      keepApart(wanted, gaps).forEach((x, at) => (cells[layer[at]].x = x));
    }
  }
}

function measure(nodes, cells, layers, pairs, lanes) {
  const left = cells.reduce((least, cell) => Math.min(least, cell.x - cell.w / 2), Infinity);
  const right = cells.reduce((most, cell) => Math.max(most, cell.x + cell.w / 2), -Infinity);
  let y = 0;
  for (const layer of layers) {
    const height = Math.max(0, ...layer.map((i) => cells[i].h));
    for (const i of layer) {
      cells[i].x -= left;
      cells[i].y = y + height / 2;
      cells[i].rowTop = y;
      cells[i].rowBottom = y + height;
    }
    y += height + LAYOUT.gapY;
  }
  const place = new Map(nodes.map((node, i) => [node.id, { x: cells[i].x, y: cells[i].y }]));
  const routes = pairs.map(([from, to], e) => ({
    from: nodes[from].id,
    to: nodes[to].id,
    long: lanes[e].length === 2 && cells[to].layer - cells[from].layer > 1,
    lane: lanes[e].map((i) => cells[i]),
  }));
  return { width: right - left, height: Math.max(0, y - LAYOUT.gapY), place, routes };
}

// Down through the lane cells: vertical at every end, so crossings of rows stay readable.
function routePath(lane, dx, dy) {
  const first = lane[0];
  let [x, y] = [first.x + dx, first.y + dy + first.h / 2];
  let path = `M${x.toFixed(1)} ${y.toFixed(1)}`;
  const curve = (toX, toY) => {
    const bend = Math.min(60, Math.max(8, (toY - y) / 2));
    const [y1, y2] = [(y + bend).toFixed(1), (toY - bend).toFixed(1)];
    path += `C${x.toFixed(1)} ${y1} ${toX.toFixed(1)} ${y2} ${toX.toFixed(1)} ${toY.toFixed(1)}`;
    [x, y] = [toX, toY];
  };
  for (const cell of lane.slice(1, -1)) {
    curve(cell.x + dx, cell.rowTop + dy);
    y = cell.rowBottom + dy;
    path += `L${x.toFixed(1)} ${y.toFixed(1)}`;
  }
  const last = lane[lane.length - 1];
  curve(last.x + dx, last.y + dy - last.h / 2);
  return path;
}
