// The explorer in the page: hover over a frame and see where networks look. Chapter 14 (notebooks/14_learned_offsets.ipynb) reads it.
// Its last part shows pairs of frames instead, for notebooks/workshop/align_view.ipynb.

// ---- The arithmetic of deformlib/offsets.py. A point is [y, x, weight]. ----

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);

// From base64 text to numbers; and the largest magnitude of every layer, for the overlay's scale.
function unpack(scene) {
  for (const network of scene.networks) {
    for (const layer of network.layers) {
      layer.map = network.map;
      layer.taps = layer.kernel_size[0] * layer.kernel_size[1];
      layer.offsets = floats(layer.offsets);
      layer.masks = floats(layer.masks);
      layer.weight = layer.weight.map((weight) => weight ?? NaN); // JSON has no word for what is not finite
      layer.largest = Math.max(0, ...layer.steps.flatMap((step) => [...magnitude(layer, step)].filter(Number.isFinite)));
    }
  }
  return { ...scene, pixels: bytes(scene.frames.data) };
}

// Bilinear reading of one channel at (y, x); outside the map the nearest edge counts: read_field in Python.
function read(values, channel, [height, width], y, x) {
  y = Math.min(Math.max(y, 0), height - 1);
  x = Math.min(Math.max(x, 0), width - 1);
  const top = Math.floor(y), left = Math.floor(x);
  const below = Math.min(top + 1, height - 1), beside = Math.min(left + 1, width - 1);
  const down = y - top, right = x - left;
  const at = (row, column) => values[(channel * height + row) * width + column];
  const upper = (1 - right) * at(top, left) + right * at(top, beside);
  const lower = (1 - right) * at(below, left) + right * at(below, beside);
  return (1 - down) * upper + down * lower;
}

// From points on a layer's output to those its taps read: trace_back and point_weights in Python.
function traceBack(layer, step, points, moved) {
  const number = layer.steps.indexOf(step), looks = []; // -1 where the layer is plain
  for (const [y, x, weight] of points) {
    for (let tap = 0; tap < layer.taps; tap++) {
      const channel = number * layer.taps + tap;
      const offset = (axis) => (number < 0 || !moved ? 0 : read(layer.offsets, 2 * channel + axis, layer.map, y, x));
      const mask = number < 0 || !layer.masks.length ? 1 : read(layer.masks, channel, layer.map, y, x);
      const row = Math.floor(tap / layer.kernel_size[1]), column = tap % layer.kernel_size[1];
      looks.push([
        y * layer.stride[0] - layer.padding[0] + row * layer.dilation[0] + offset(0),
        x * layer.stride[1] - layer.padding[1] + column * layer.dilation[1] + offset(1),
        weight * mask * layer.weight[tap],
      ]);
    }
  }
  return looks;
}

// Where a position of a layer looks, `depth` layers deep, in pixels of the frame; moved: with offsets, else those of the regular grid.
function samplingPoints(network, { step, layer, depth, row, column }, moved = true) {
  let points = [[row, column, 1]];
  for (let number = layer; number > layer - depth; number--) {
    points = traceBack(network.layers[number], step, points, moved);
  }
  return points.map(([y, x, weight]) => [...toFrame(network, y, x), weight]);
}

function toFrame({ to_frame: [scale, shift] }, y, x) {
  return [y * scale[0] + shift[0], x * scale[1] + shift[1]];
}

// Mean length of the taps' offsets at every position of a layer: offset_magnitude in Python.
function magnitude(layer, step) {
  const size = layer.map[0] * layer.map[1], number = layer.steps.indexOf(step);
  const values = new Float64Array(size);
  for (let tap = 0; number >= 0 && tap < layer.taps; tap++) {
    const start = 2 * (number * layer.taps + tap) * size;
    for (let place = start; place < start + size; place++) {
      values[place - start] += Math.hypot(layer.offsets[place], layer.offsets[place + size]) / layer.taps;
    }
  }
  return values;
}

// ---- The picture ----

const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const MAGMA = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];
const POSITION = "#56b4e9";

// The colour at a share from 0 to 1 of a ramp.
function colour(ramp, share) {
  const place = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(place), ramp.length - 2);
  return ramp[low].map((value, part) => Math.round(value + (place - low) * (ramp[low + 1][part] - value)));
}

// A canvas of width x height pixels whose colours, [red, green, blue, opacity], a function of the pixel's number gives.
function picture(width, height, pixel) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  for (let place = 0; place < width * height; place++) image.data.set(pixel(place), 4 * place);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// One network's canvas: the frame with a margin, the overlay, the points, the position. Returns what to say about it.
function draw(canvas, scene, network, state) {
  const [, height, width, channels] = scene.frames.shape, context = canvas.getContext("2d");
  const zoom = canvas.width / (width + 2 * scene.margin);
  const onCanvas = ([y, x]) => [(x + 0.5 + scene.margin) * zoom, (y + 0.5 + scene.margin) * zoom];
  const [rows, columns] = network.map, [tall, wide] = network.to_frame[0]; // a map pixel in frame pixels

  context.fillStyle = "#e8e8e8";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  const frame = picture(width, height, (place) => {
    const at = (state.step * height * width + place) * channels;
    const [red, green, blue] = channels === 3 ? [0, 1, 2] : [0, 0, 0];
    return [scene.pixels[at + red], scene.pixels[at + green], scene.pixels[at + blue], 255];
  });
  context.drawImage(frame, ...onCanvas([-0.5, -0.5]), width * zoom, height * zoom);

  const top = network.layers[state.layer];
  if (state.overlay) {
    const values = magnitude(top, state.step);
    const heat = picture(columns, rows, (place) => {
      const share = values[place] / (top.largest || 1);
      return Number.isFinite(share) ? [...colour(MAGMA, share), 40 + 180 * share] : [0, 0, 0, 0];
    });
    context.drawImage(heat, ...onCanvas(toFrame(network, -0.5, -0.5)), columns * wide * zoom, rows * tall * zoom);
  }

  const points = samplingPoints(network, state), regular = samplingPoints(network, state, false);
  const finite = points.filter((point) => point.every(Number.isFinite)), lost = points.length - finite.length;
  const heaviest = Math.max(...finite.map((point) => point[2])) || 1;
  context.strokeStyle = "rgba(0, 0, 0, 0.5)";
  context.lineWidth = 0.5;
  for (const point of [...finite].sort((one, other) => one[2] - other[2])) {
    context.fillStyle = `rgb(${colour(VIRIDIS, point[2] / heaviest)})`;
    context.beginPath();
    context.arc(...onCanvas(point), Math.max(1.5, 5 - state.depth), 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
  context.strokeStyle = POSITION;
  context.lineWidth = 2;
  const corner = onCanvas(toFrame(network, state.row - 0.5, state.column - 0.5));
  context.strokeRect(...corner, wide * zoom, tall * zoom);

  canvas.points = points;
  const outside = finite.filter(([y, x]) => y < -0.5 || x < -0.5 || y > height - 0.5 || x > width - 0.5).length;
  const lengths = points.map(([y, x], number) => Math.hypot(y - regular[number][0], x - regular[number][1]));
  const moved = lengths.filter(Number.isFinite).reduce((sum, length, _, all) => sum + length / all.length, 0);
  const seen = network.layers.slice(state.layer + 1 - state.depth, state.layer + 1);
  const deformable = seen.filter((layer) => layer.steps.includes(state.step)).length;
  return `${points.length} points, ${outside} outside the frame, moved ${moved.toFixed(2)} px on average. ` +
    (lost ? `${lost} of them are not drawn: their offsets or weights are not finite. ` : "") +
    `${deformable} of ${state.depth} layers deformable at this step.` +
    (state.overlay ? ` Magnitude from 0 (dark) to ${top.largest.toFixed(2)} map px.` : "");
}

// ---- The controls ----

const HELP = "Hover, or use the keys: arrows move, page up and down change the step, 1 2 3 the depth, L the layer, " +
  "M the overlay, space plays.";

function element(name, properties = {}, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const limit = (value, low, high) => Math.min(Math.max(value, low), high);

// A group that can be tabbed to, and whose keys are not JupyterLab's.
function group(title, children) {
  const panel = element("div", { className: "deformlib-explorer", tabIndex: 0 }, children);
  panel.setAttribute("role", "group");
  panel.setAttribute("aria-label", title || "explorer");
  for (const part of [panel, ...panel.querySelectorAll("input, select, button")]) {
    part.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab has shortcuts of its own for these keys
  }
  return panel;
}

// Tell what to do at each key, but where a control has keys of its own.
function listen(panel, keys) {
  panel.addEventListener("keydown", (event) => {
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const elsewhere = event.target !== panel && event.target.tagName !== "CANVAS"; // a slider has arrow keys of its own
    if (!act || elsewhere || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });
}

// Playing: `advance` twice a second while the panel is on the page, `show` after each press of the button.
function player(panel, advance, show) {
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
  };
  const toggle = () => {
    if (timer) stop();
    else timer = setInterval(() => (panel.isConnected ? advance() : stop()), 500);
    show();
  };
  return { stop, toggle, label: () => (timer ? "pause" : "play") };
}

// A function that changes state in place, within bounds(state), from key to [lowest, highest]; `show` draws what is
// fresh, and changed(keys) is told.
function setter(state, bounds, show, changed) {
  return (wanted) => {
    const now = { ...state, ...wanted };
    for (const key of Object.keys(bounds(now))) now[key] = limit(now[key], ...bounds(now)[key]);
    const fresh = Object.keys(now).filter((key) => now[key] !== state[key]);
    if (!fresh.length) return;
    Object.assign(state, now);
    show();
    changed(fresh);
  };
}

// The keys that move: arrows the position, page up and down what is counted by `page`.
function moves(state, set, page) {
  const by = (key, step) => () => set({ [key]: state[key] + step });
  return {
    ArrowUp: by("row", -1), ArrowDown: by("row", 1), ArrowLeft: by("column", -1), ArrowRight: by("column", 1),
    PageUp: by(page, -1), PageDown: by(page, 1),
  };
}

// at([y, x]): where the mouse is on a canvas, in pixels of a picture that is so many of them wide.
function hover(canvas, width, at) {
  const tell = (event) => {
    const box = canvas.getBoundingClientRect(), zoom = box.width / width;
    at([event.clientY - box.top, event.clientX - box.left].map((place) => place / zoom - 0.5));
  };
  for (const kind of ["pointermove", "pointerdown"]) canvas.addEventListener(kind, tell);
}

const options = (count) =>
  Array.from({ length: count }, (_, number) => element("option", { value: number, textContent: number + 1 }));

// All that is seen and touched, before anything happens to it.
function build(scene) {
  const [steps, height, width] = scene.frames.shape, layers = scene.networks[0].layers.length;
  const side = Math.min(440, Math.floor(900 / scene.networks.length));
  const tall = Math.round(side * (height + 2 * scene.margin) / (width + 2 * scene.margin));
  const views = scene.networks.map((network) => {
    const canvas = element("canvas", { width: side, height: tall }), caption = element("figcaption");
    canvas.setAttribute("role", "img");
    const name = element("strong", { textContent: network.name });
    return { network, canvas, caption, figure: element("figure", {}, [name, canvas, caption]) };
  });
  const parts = {
    slider: element("input", { type: "range", min: 0, max: steps - 1 }),
    said: element("output"),
    play: element("button", { type: "button" }),
    layer: element("select", {}, options(layers)),
    depth: element("select", {}, options(layers)),
    overlay: element("input", { type: "checkbox" }),
  };
  const named = (text, ...inputs) => element("label", {}, [text + " ", ...inputs]);
  const controls = element("div", { className: "controls" }, [
    named("time step", parts.slider, parts.said), parts.play, named("layer", parts.layer),
    named("layers deep", parts.depth), named("magnitude", parts.overlay),
  ]);
  const panel = group(scene.title, [
    element("strong", { textContent: scene.title, className: "title" }),
    controls,
    element("div", { className: "views" }, views.map((view) => view.figure)),
    element("small", { textContent: HELP }),
  ]);
  return { panel, views, ...parts };
}

// The explorer in `root`. state is changed in place, changed(keys) is told; set(wanted) changes it from outside.
function explore(root, scene, state, changed) {
  const { panel, views, slider, said, play, layer, depth, overlay } = build(scene);
  const steps = scene.frames.shape[0], layers = scene.networks[0].layers.length, [rows, columns] = scene.networks[0].map;
  const set = setter(state, ({ layer }) => ({
    step: [0, steps - 1], layer: [0, layers - 1], depth: [1, layer + 1], row: [0, rows - 1], column: [0, columns - 1],
  }), show, changed);
  const playing = player(panel, () => set({ step: (state.step + 1) % steps }), show);
  root.replaceChildren(panel);

  function show() {
    slider.value = state.step;
    layer.value = state.layer;
    depth.value = state.depth - 1;
    overlay.checked = state.overlay;
    for (const option of depth.options) option.disabled = Number(option.value) > state.layer;
    const chosen = new Set(scene.networks.flatMap((network) => network.layers[state.layer].steps));
    said.textContent = ` ${state.step} (of 0 to ${steps - 1}; ` +
      `layer ${state.layer + 1} deforms at ${[...chosen].join(", ") || "none"})`;
    play.textContent = playing.label();
    for (const { network, canvas, caption } of views) {
      caption.textContent = draw(canvas, scene, network, state);
      const place = `${network.name}: position ${state.row}, ${state.column}`;
      canvas.setAttribute("aria-label", `${place}: ${caption.textContent}`);
    }
  }

  for (const { network: { to_frame: [scale, shift] }, canvas } of views) {
    hover(canvas, scene.frames.shape[2] + 2 * scene.margin, (pixel) => {
      const place = (axis) => Math.round((pixel[axis] - scene.margin - shift[axis]) / scale[axis]);
      set({ row: place(0), column: place(1) });
    });
  }
  slider.addEventListener("input", () => set({ step: Number(slider.value) }));
  layer.addEventListener("change", () => set({ layer: Number(layer.value) }));
  depth.addEventListener("change", () => set({ depth: Number(depth.value) + 1 }));
  overlay.addEventListener("change", () => set({ overlay: overlay.checked }));
  play.addEventListener("click", playing.toggle);

  listen(panel, {
    ...moves(state, set, "step"),
    1: () => set({ depth: 1 }),
    2: () => set({ depth: 2 }),
    3: () => set({ depth: 3 }),
    l: () => set({ layer: (state.layer + 1) % layers }),
    m: () => set({ overlay: !state.overlay }),
    " ": playing.toggle,
  });

  set({});
  show();
  return { set, stop: playing.stop };
}

// ---- Pairs of frames: a place of frame b, and where taps look for it in frame a ----

const TAPS = "#ff0000", TRUTH = "#32cd32", ORDINARY = "#ffff00"; // as in the films of deformlib/align/view.py
const PAIR_STATE = ["pair", "row", "column"];
const PAIR_HELP = "Hover over the left frame, or use the keys: arrows move, page up and down change the pair, space plays.";

// From base64 text to numbers.
function unpackPairs(scene) {
  for (const pair of scene.pairs) {
    pair.taps = new Int8Array(bytes(pair.taps).buffer);
    pair.truth = new Int16Array(bytes(pair.truth).buffer);
    pair.part = bytes(pair.part);
    pair.seen = bytes(pair.seen);
  }
  return { ...scene, pixels: bytes(scene.frames.data) };
}

// Where taps look for a place, as [y, x] in pixels of the frame: Alignment.look in Python; was: null where it is hidden.
function look(scene, { pair: number, row, column }) {
  const pair = scene.pairs[number], size = scene.map[0] * scene.map[1], place = row * scene.map[1] + column;
  const here = [row * scene.stride, column * scene.stride];
  const plain = scene.weight.map((_, tap) => [here[0] + Math.floor(tap / 3) - 1, here[1] + (tap % 3) - 1]);
  const taps = plain.map((point, tap) =>
    point.map((value, axis) => value + pair.unit * pair.taps[(2 * tap + axis) * size + place]));
  const told = [0, 1].map((axis) => taps.reduce((sum, point, tap) => sum + scene.weight[tap] * point[axis], 0));
  const truth = [0, 1].map((axis) => here[axis] + pair.truth[axis * size + place] / 128);
  return { here, plain, taps, told, was: pair.seen[place] ? truth : null, part: scene.parts[pair.part[place]] };
}

const apart = (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]);

// What there is to say about a place, under each frame.
function describe({ here, told, was, part }) {
  const now = `Frame b: row ${here[0]}, column ${here[1]}, on the ${part}.`;
  const read = `the learned taps say that it was ${apart(told, here).toFixed(1)} px away.`;
  if (!was) return [now, `Frame a: what is seen there was hidden; ${read}`];
  const moved = apart(was, here), still = moved < 0.05 ? "did not move" : `was ${moved.toFixed(1)} px away`;
  return [now, `Frame a: it ${still}. From its true place, the learned taps look ` +
    `${apart(told, was).toFixed(1)} px off, the ordinary ones ${moved.toFixed(1)} px.`];
}

// One frame of the film as a picture, at the size in which it came.
function filmFrame(scene, number) {
  const [, height, width] = scene.frames.shape;
  return picture(width, height, (place) => {
    const value = scene.pixels[number * height * width + place];
    return [value, value, value, 255];
  });
}

function drawDots(context, points, fill) {
  context.fillStyle = fill;
  context.strokeStyle = "rgba(0, 0, 0, 0.6)";
  context.lineWidth = 0.75;
  for (const point of points) {
    context.beginPath();
    context.arc(...point, 2.5, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
}

function drawLines(context, lines, stroke, width) {
  context.strokeStyle = stroke;
  context.lineWidth = width;
  for (const line of lines) {
    context.beginPath();
    line.forEach((point, number) => (number ? context.lineTo(...point) : context.moveTo(...point)));
    context.stroke();
  }
}

// An arrow's shaft and head, as lines; none where it would be shorter than its head.
function arrow([x, y], [toX, toY]) {
  const angle = Math.atan2(toY - y, toX - x), ends = [-0.5, 0.5].map((turn) => angle + turn);
  if (Math.hypot(toX - x, toY - y) < 10) return [];
  const [left, right] = ends.map((end) => [toX - 10 * Math.cos(end), toY - 10 * Math.sin(end)]);
  return [[[x, y], [toX, toY]], [left, [toX, toY], right]];
}

// In a: ordinary taps, the true place, the motion read from the learned taps, and these. at: from [y, x] to the canvas.
function drawFound(context, found, at) {
  drawDots(context, found.plain.map(at), ORDINARY);
  if (found.was) {
    const [x, y] = at(found.was), cross = [-9, 9].map((arm) => [[x - 9, y - arm], [x + 9, y + arm]]);
    drawLines(context, cross, "black", 5);
    drawLines(context, cross, TRUTH, 3);
  }
  drawLines(context, arrow(at(found.here), at(found.told)), TAPS, 2);
  drawDots(context, found.taps.map(at), TAPS);
}

// What is around the place in a, enlarged, in the upper corner that is farther from it.
function drawLens(canvas, frame, scene, found) {
  const context = canvas.getContext("2d"), side = 0.36 * canvas.width, reach = 11, scale = frame.width / scene.side;
  const middle = [0, 1].map((axis) =>
    limit((found.here[axis] + found.told[axis]) / 2, reach - 0.5, scene.side - reach - 0.5));
  const left = found.here[1] < scene.side / 2 ? canvas.width - side : 0, zoom = side / (2 * reach);
  const from = middle.map((value) => (value + 0.5 - reach) * scale);
  context.save();
  context.beginPath();
  context.rect(left, 0, side, side);
  context.clip();
  context.drawImage(frame, from[1], from[0], 2 * reach * scale, 2 * reach * scale, left, 0, side, side);
  drawFound(context, found, ([y, x]) => [left + (x - middle[1] + reach) * zoom, (y - middle[0] + reach) * zoom]);
  context.restore();
  context.strokeStyle = "white";
  context.lineWidth = 2;
  context.strokeRect(left + 1, 1, side - 2, side - 2);
}

// Both canvases: the place in b; in a where taps look for it. Returns what to say under each.
function drawPair([b, a], scene, state) {
  const found = look(scene, state), pair = scene.pairs[state.pair], zoom = a.width / scene.side;
  const at = ([y, x]) => [(x + 0.5) * zoom, (y + 0.5) * zoom], [contextB, contextA] = [b, a].map((each) => each.getContext("2d"));
  contextB.drawImage(filmFrame(scene, pair.b), 0, 0, b.width, b.height);
  contextB.strokeStyle = POSITION;
  contextB.lineWidth = 3;
  contextB.beginPath();
  contextB.arc(...at(found.here), 9, 0, 2 * Math.PI);
  contextB.stroke();
  const frame = filmFrame(scene, pair.a);
  contextA.drawImage(frame, 0, 0, a.width, a.height);
  drawFound(contextA, found, at);
  drawLens(a, frame, scene, found);
  a.look = found;
  return describe(found);
}

// A dot or a cross, and what it stands for.
const legend = (mark, colour, text) => element("span", {}, [
  element("b", { textContent: mark, style: `color: ${colour}; -webkit-text-stroke: 0.5px black` }), ` ${text}`,
]);

// All that is seen and touched, before anything happens to it.
function buildPairs(scene) {
  const names = ["frame b: point at a place", `frame a, ${scene.milliseconds} ms before: where was it?`];
  const views = names.map((name) => {
    const canvas = element("canvas", { width: 440, height: 440 }), caption = element("figcaption");
    canvas.setAttribute("role", "img");
    const figure = element("figure", {}, [element("strong", { textContent: name }), canvas, caption]);
    return { name, canvas, caption, figure };
  });
  const slider = element("input", { type: "range", min: 0, max: scene.pairs.length - 1 });
  const said = element("output"), play = element("button", { type: "button" });
  const panel = group(scene.title, [
    element("strong", { textContent: scene.title, className: "title" }),
    element("div", { className: "controls" }, [element("label", {}, ["pair of frames ", slider, said]), play]),
    element("div", { className: "views" }, views.map((view) => view.figure)),
    element("div", { className: "controls" }, [
      legend("●", TAPS, "learned taps, and the motion read from them"),
      legend("●", ORDINARY, "ordinary taps: the same place"),
      legend("✕", TRUTH, "where it truly was"),
    ]),
    element("small", { textContent: PAIR_HELP }),
  ]);
  return { panel, views, slider, said, play };
}

// The explorer of pairs in `root`; state, changed and set as in `explore`.
function explorePairs(root, scene, state, changed) {
  const { panel, views, slider, said, play } = buildPairs(scene), count = scene.pairs.length;
  const bounds = { pair: [0, count - 1], row: [0, scene.map[0] - 1], column: [0, scene.map[1] - 1] };
  const set = setter(state, () => bounds, show, changed);
  const playing = player(panel, () => set({ pair: (state.pair + 1) % count }), show);
  root.replaceChildren(panel);

  function show() {
    slider.value = state.pair;
    said.textContent = ` ${state.pair + 1} of ${count}`;
    play.textContent = playing.label();
    const words = drawPair(views.map((view) => view.canvas), scene, state);
    views.forEach(({ canvas, caption }, number) => {
      caption.textContent = words[number];
      canvas.setAttribute("aria-label", words[number]);
    });
  }

  hover(views[0].canvas, scene.side, (pixel) => {
    const [row, column] = pixel.map((place) => Math.round(place / scene.stride));
    set({ row, column });
  });
  slider.addEventListener("input", () => set({ pair: Number(slider.value) }));
  play.addEventListener("click", playing.toggle);
  listen(panel, {
    ...moves(state, set, "pair"),
    " ": playing.toggle,
  });

  set({});
  show();
  return { set, stop: playing.stop };
}

// ---- The widget: what the page and Python share ----

const STATE = ["step", "layer", "depth", "row", "column", "overlay"];

function render({ model, el }) {
  const scene = structuredClone(model.get("scene")), keys = scene.pairs ? PAIR_STATE : STATE;
  const values = () => Object.fromEntries(keys.map((key) => [key, model.get(key)])), state = values();
  const [begin, ready] = scene.pairs ? [explorePairs, unpackPairs] : [explore, unpack];
  let telling = false; // the model answers each set with its change, before the next one is set
  const { set, stop } = begin(el, ready(scene), state, (fresh) => {
    telling = true;
    fresh.forEach((key) => model.set(key, state[key]));
    telling = false;
    model.save_changes();
  });
  const follow = () => telling || set(values());
  keys.forEach((key) => model.on(`change:${key}`, follow));
  return () => {
    stop();
    keys.forEach((key) => model.off(`change:${key}`, follow));
  };
}

export default { render };
