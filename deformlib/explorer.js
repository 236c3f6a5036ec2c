// The explorer in the page: hover over a frame and see where networks look. Chapter 14 (notebooks/14_learned_offsets.ipynb) reads it.

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
  const panel = element("div", { className: "deformlib-explorer", tabIndex: 0 }, [
    element("strong", { textContent: scene.title, className: "title" }),
    controls,
    element("div", { className: "views" }, views.map((view) => view.figure)),
    element("small", { textContent: HELP }),
  ]);
  panel.setAttribute("role", "group");
  panel.setAttribute("aria-label", scene.title || "explorer");
  for (const part of [panel, ...panel.querySelectorAll("input, select, button")]) {
    part.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab has shortcuts of its own for these keys
  }
  return { panel, views, ...parts };
}

// The explorer in `root`. state is changed in place, changed(keys) is told; set(wanted) changes it from outside.
function explore(root, scene, state, changed) {
  const { panel, views, slider, said, play, layer, depth, overlay } = build(scene);
  const steps = scene.frames.shape[0], layers = scene.networks[0].layers.length, [rows, columns] = scene.networks[0].map;
  let timer = 0;
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
    play.textContent = timer ? "pause" : "play";
    for (const { network, canvas, caption } of views) {
      caption.textContent = draw(canvas, scene, network, state);
      const place = `${network.name}: position ${state.row}, ${state.column}`;
      canvas.setAttribute("aria-label", `${place}: ${caption.textContent}`);
    }
  }

  function set(wanted) {
    const limit = (value, low, high) => Math.min(Math.max(value, low), high), now = { ...state, ...wanted };
    now.step = limit(now.step, 0, steps - 1);
    now.layer = limit(now.layer, 0, layers - 1);
    now.depth = limit(now.depth, 1, now.layer + 1);
    now.row = limit(now.row, 0, rows - 1);
    now.column = limit(now.column, 0, columns - 1);
    const fresh = Object.keys(now).filter((key) => now[key] !== state[key]);
    if (!fresh.length) return;
    Object.assign(state, now);
    show();
    changed(fresh);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
  }

  function toggle() {
    if (timer) stop();
    else timer = setInterval(() => (panel.isConnected ? set({ step: (state.step + 1) % steps }) : stop()), 500);
    show();
  }

  for (const { network, canvas } of views) {
    const hover = (event) => {
      const box = canvas.getBoundingClientRect(), zoom = box.width / (scene.frames.shape[2] + 2 * scene.margin);
      const pixel = [event.clientY - box.top, event.clientX - box.left].map((place) => place / zoom - scene.margin - 0.5);
      const [scale, shift] = network.to_frame;
      const [row, column] = pixel.map((place, axis) => Math.round((place - shift[axis]) / scale[axis]));
      set({ row, column });
    };
    canvas.addEventListener("pointermove", hover);
    canvas.addEventListener("pointerdown", hover);
  }
  slider.addEventListener("input", () => set({ step: Number(slider.value) }));
  layer.addEventListener("change", () => set({ layer: Number(layer.value) }));
  depth.addEventListener("change", () => set({ depth: Number(depth.value) + 1 }));
  overlay.addEventListener("change", () => set({ overlay: overlay.checked }));
  play.addEventListener("click", toggle);

  const keys = {
    ArrowUp: () => set({ row: state.row - 1 }),
    ArrowDown: () => set({ row: state.row + 1 }),
    ArrowLeft: () => set({ column: state.column - 1 }),
    ArrowRight: () => set({ column: state.column + 1 }),
    PageUp: () => set({ step: state.step - 1 }),
    PageDown: () => set({ step: state.step + 1 }),
    1: () => set({ depth: 1 }),
    2: () => set({ depth: 2 }),
    3: () => set({ depth: 3 }),
    l: () => set({ layer: (state.layer + 1) % layers }),
    m: () => set({ overlay: !state.overlay }),
    " ": toggle,
  };
  panel.addEventListener("keydown", (event) => {
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const elsewhere = event.target !== panel && event.target.tagName !== "CANVAS"; // a slider has arrow keys of its own
    if (!act || elsewhere || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });

  set({});
  show();
  return { set, stop };
}

// ---- The widget: what the page and Python share ----

const STATE = ["step", "layer", "depth", "row", "column", "overlay"];

function render({ model, el }) {
  const values = () => Object.fromEntries(STATE.map((key) => [key, model.get(key)])), state = values();
  const scene = unpack(structuredClone(model.get("scene")));
  const { set, stop } = explore(el, scene, state, (fresh) => {
    fresh.forEach((key) => model.set(key, state[key]));
    model.save_changes();
  });
  const follow = () => set(values());
  STATE.forEach((key) => model.on(`change:${key}`, follow));
  return () => {
    stop();
    STATE.forEach((key) => model.off(`change:${key}`, follow));
  };
}

export default { render };
