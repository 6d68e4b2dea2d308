"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const LARGEST_ZOOM = 16;
// Less is purple, more is orange, faint to strong: told apart by readers who see colours in any of the common ways.
const LESS = [[150, 130, 215], [58, 20, 110]];
const MORE = [[250, 150, 40], [150, 66, 5]];

const state = { pair: null, axes: new Set(), place: null, border: 0.5, zoom: 1, x: 0, y: 0, maps: new Map() };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function number(value, digits = 3) {
  if (value === null) return "∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 0.0005 ? value.toExponential(1) : String(Number(value.toPrecision(size < 0.01 ? 2 : digits)));
}

const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value), 2);
const side = (direction) => (direction > 0 ? "more" : direction < 0 ? "less" : "");

// ---- The index -------------------------------------------------------------------------------------------------

const COLUMNS = [
  { key: "name", title: "picture" },
  { key: "distance", title: "distance", numeric: true },
  { key: "psnr", title: "PSNR dB", numeric: true },
  { key: "says", title: "most visible", wide: true },
];
const order = { key: "distance", down: true };

function drawIndex() {
  const sign = order.down ? -1 : 1;
  const value = (pair) => (order.key === "psnr" && pair.psnr === null ? Infinity : pair[order.key]);
  const sorted = [...data.pairs].sort((a, b) => {
    const [one, two] = [value(a), value(b)];
    return sign * (typeof one === "string" ? one.localeCompare(two, undefined, { numeric: true }) : one - two);
  });
  const largest = Math.max(...data.pairs.map((pair) => pair.distance)) || 1;
  const head = element("tr", {}, ...COLUMNS.map((column) => {
    const button = element("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => {
      order.down = order.key === column.key ? !order.down : Boolean(column.numeric);
      order.key = column.key;
      drawIndex();
      by("rows").querySelector(`th[data-key="${column.key}"] button`).focus();
    });
    const cell = element("th", { scope: "col", className: classes(column) }, button);
    cell.dataset.key = column.key;
    if (order.key === column.key) cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    return cell;
  }));
  const rows = sorted.map((pair) => {
    const name = pair.picture
      ? element("button", { type: "button", className: "open", textContent: pair.name })
      : element("span", { textContent: `${pair.name} (picture not in this page)` });
    if (pair.picture) name.addEventListener("click", () => { location.hash = String(pair.number); });
    const row = element("tr", {},
      element("td", {}, name),
      element("td", { className: "number" }, number(pair.distance), bar(pair.distance / largest, "")),
      element("td", { className: "number", textContent: pair.psnr === null ? "∞" : pair.psnr.toFixed(2) }),
      element("td", { className: "wide", textContent: pair.says }));
    if (pair === state.pair) row.setAttribute("aria-current", "true");
    return row;
  });
  by("rows").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
}

const classes = (column) => [column.numeric ? "number" : "", column.wide ? "wide" : ""].join(" ").trim();

function bar(share, kind) {
  const inner = element("i");
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return element("div", { className: `bar ${kind}` }, inner);
}

function drawSummary() {
  const columns = [
    ["of", "", (group) => group.name],
    ["pictures", "number", (group) => String(group.count)],
    ["mean distance", "number", (group) => number(group.mean)],
    ["median", "number wide", (group) => number(group.median)],
    ["largest", "number wide", (group) => number(group.largest)],
    ["mean PSNR dB", "number wide", (group) => (group.psnr === null ? "∞" : group.psnr.toFixed(2))],
    ["most of the distance", "wide", (group) => group.axes],
  ];
  const cells = (tag, text) => columns.map((column) => element(tag, { className: column[1], textContent: text(column) }));
  const rows = data.groups.map((group) => element("tr", {}, ...cells("td", (column) => column[2](group))));
  const head = element("tr", {}, ...cells("th", (column) => column[0]));
  by("summary").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  if (!data.skipped.length) return;
  by("skipped").hidden = false;
  by("skipped").querySelector("summary").textContent = `${data.skipped.length} could not be compared`;
  by("skipped").querySelector("ul").replaceChildren(
    ...data.skipped.map((one) => element("li", { textContent: `${one.image}: ${one.reason}` })));
}

// ---- One pair --------------------------------------------------------------------------------------------------

async function show(pair) {
  state.pair = pair;
  state.axes = new Set(pair.axes.filter((axis) => axis.map).slice(0, 1).map((axis) => axis.name));
  state.place = null;
  state.maps = new Map();
  by("pair").hidden = false;
  by("pair-title").textContent = pair.name;
  by("distance").textContent = number(pair.distance);
  by("psnr").textContent = pair.psnr === null ? "∞" : `${pair.psnr.toFixed(2)} dB`;
  by("says").textContent = pair.says;
  by("reference").src = data.pictures[pair.reference];
  by("picture").src = data.pictures[pair.picture];
  by("reference").alt = `Reference: ${pair.original}`;
  by("picture").alt = `Picture: ${pair.name}. ${pair.says}`;
  const shown = pair.shown < 1 ? `, shown at ${Math.round(pair.shown * 100)} %` : "";
  by("caption").textContent = `${pair.width} × ${pair.height} pixels${shown}. Reference: ${pair.original}`;
  const stage = by("stage");
  stage.style.aspectRatio = `${pair.width} / ${pair.height}`;
  stage.style.width = `min(100%, ${(72 * pair.width) / pair.height}vh)`;
  drawAxes();
  drawPlaces();
  drawIndex();
  view(1, 0, 0);
  moveBorder(0.5);
  drawOverlay();
  const maps = await Promise.all(pair.axes.filter((axis) => axis.map).map(decode));
  if (state.pair !== pair) return;
  state.maps = new Map(maps);
  drawOverlay();
  document.body.dataset.ready = String(pair.number);
}

async function decode(axis) {
  const image = new Image();
  image.src = axis.map;
  await image.decode();
  const canvas = element("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, image.width, image.height).data;
  const values = new Float32Array(image.width * image.height);
  for (let k = 0; k < values.length; k++) values[k] = (bytes[4 * k] - 128) / 127;
  return [axis.name, { width: image.width, height: image.height, values }];
}

function drawAxes() {
  const { pair } = state;
  const largest = Math.max(...pair.axes.map((axis) => axis.part), pair.floor) || 1;
  const inside = (title, words, part, kind) => [
    element("span", {}, title, " ", element("span", { className: "words", textContent: words })),
    element("span", { className: "number", textContent: number(part) }),
    bar(part / largest, kind)];
  const rows = pair.axes.map((axis) => {
    const content = inside(axis.title, axis.words, axis.part, side(axis.direction));
    if (!axis.map) return element("li", {}, element("div", { className: "axis plain" }, ...content));
    const button = element("button", { type: "button", className: "axis" }, ...content);
    button.dataset.axis = axis.name;
    press(button, state.axes.has(axis.name));
    button.addEventListener("click", () => {
      if (!state.axes.delete(axis.name)) state.axes.add(axis.name);
      press(button, state.axes.has(axis.name));
      press(by("maps"), true);
      drawOverlay();
    });
    return element("li", {}, button);
  });
  const faint = rows.filter((_, k) => !pair.axes[k].map);
  const floor = inside("floor", "differences of single pixels", pair.floor, "");
  by("axes").replaceChildren(...rows.filter((row) => !faint.includes(row)),
    element("li", {}, element("div", { className: "axis plain" }, ...floor)));
  by("faint").hidden = !faint.length;
  by("faint").querySelector("summary").textContent = `${faint.length} fainter ${faint.length > 1 ? "axes" : "axis"}`;
  by("faint").querySelector("ul").replaceChildren(...faint);
}

function drawPlaces() {
  const { pair } = state;
  by("places-hint").hidden = !pair.places.length;
  if (!pair.places.length) {
    by("places").replaceChildren(element("li", { className: "quiet", textContent: "No place stands out." }));
    return;
  }
  by("places").replaceChildren(...pair.places.map((place, k) => {
    const button = element("button", { type: "button", className: `place ${side(place.value)}` },
      element("span", { className: "mark", textContent: String(k + 1) }),
      element("span", {}, place.words,
        element("small", { textContent: `${where(place)}, ${place.width} × ${place.height} px` })),
      element("span", { className: "number", textContent: signed(place.value) }));
    press(button, false);
    button.addEventListener("click", () => (state.place === place ? leave() : enter(place, button)));
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => outline(place));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => outline(state.place));
    return element("li", {}, button);
  }));
}

function where(place) {
  const { pair } = state;
  if (place.width * place.height > 0.8 * pair.width * pair.height) return "nearly everywhere";
  const third = (middle, whole, names) => names[Math.min(2, Math.floor((3 * middle) / whole))];
  const tall = third(place.top + place.height / 2, pair.height, ["top", "", "bottom"]);
  const across = third(place.left + place.width / 2, pair.width, ["left", "", "right"]);
  return [tall, across].filter(Boolean).join(" ") || "middle";
}

function enter(place, button) {
  leavePressed();
  state.place = place;
  press(button, true);
  outline(place);
  const { pair } = state;
  const zoom = Math.min(LARGEST_ZOOM, 0.8 * Math.min(pair.width / place.width, pair.height / place.height));
  glide();
  centre(Math.max(1, zoom), (place.left + place.width / 2) / pair.width, (place.top + place.height / 2) / pair.height);
  if (by("stage").getBoundingClientRect().bottom < 80) by("stage").scrollIntoView({ block: "center" });
}

function leavePressed() {
  for (const button of by("places").querySelectorAll("[aria-pressed=true]")) press(button, false);
}

function leave() {
  leavePressed();
  state.place = null;
  outline(null);
  glide();
  view(1, 0, 0);
}

function outline(place) {
  const box = by("box");
  box.hidden = !place;
  if (!place) return;
  const { pair } = state;
  box.style.left = `${(100 * place.left) / pair.width}%`;
  box.style.top = `${(100 * place.top) / pair.height}%`;
  box.style.width = `${(100 * place.width) / pair.width}%`;
  box.style.height = `${(100 * place.height) / pair.height}%`;
  box.dataset.axis = place.axis;
  sizeOutline();
}

function sizeOutline() {
  by("box").style.outlineWidth = `${2 / state.zoom}px`;
  by("box").style.boxShadow = `0 0 0 ${4 / state.zoom}px #000`;
}

// ---- The overlay -----------------------------------------------------------------------------------------------

function chosen() {
  return state.pair.axes.filter((axis) => axis.map && state.axes.has(axis.name));
}

function drawOverlay() {
  const on = by("maps").getAttribute("aria-pressed") === "true";
  const axes = on ? chosen() : [];
  const canvas = by("overlay");
  by("stage").classList.toggle("grey", axes.length > 0 && by("grey").getAttribute("aria-pressed") === "true");
  by("legend").style.visibility = axes.length ? "visible" : "hidden";
  if (axes.length) {
    const one = axes.length === 1 ? axes[0] : null;
    by("plus").textContent = one ? one.plus : "more of the axis";
    by("minus").textContent = one ? one.minus : "less of the axis";
    by("low").textContent = `−${number(state.pair.limit, 2)}`;
    by("high").textContent = `+${number(state.pair.limit, 2)}`;
  }
  const maps = axes.map((axis) => state.maps.get(axis.name)).filter(Boolean);
  canvas.hidden = !maps.length;
  canvas.dataset.axes = axes.map((axis) => axis.name).join(" ");
  if (!maps.length) return;
  const { width, height } = maps[0];
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let k = 0; k < width * height; k++) {
    let value = 0;
    for (const map of maps) if (Math.abs(map.values[k]) > Math.abs(value)) value = map.values[k];
    image.data.set(colour(value), 4 * k);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function colour(value) {
  const size = Math.min(1, Math.abs(value));
  const [faint, strong] = value < 0 ? LESS : MORE;
  return [...faint.map((channel, k) => channel + (strong[k] - channel) * size), 255 * 0.9 * Math.sqrt(size)];
}

// What the overlay looks like over mid grey.
function drawRamp() {
  const stops = Array.from({ length: 21 }, (_, k) => {
    const [red, green, blue, opacity] = colour(k / 10 - 1);
    return [red, green, blue].map((channel) => Math.round(128 + (channel - 128) * (opacity / 255)));
  });
  by("ramp").style.background = `linear-gradient(to right, ${stops.map((stop) => `rgb(${stop})`).join(", ")})`;
}

function read(event) {
  const area = by("stage").getBoundingClientRect();
  const across = ((event.clientX - area.left) / area.width - state.x) / state.zoom;
  const down = ((event.clientY - area.top) / area.height - state.y) / state.zoom;
  if (across < 0 || across >= 1 || down < 0 || down >= 1) return;
  const { pair } = state;
  const at = `x ${Math.floor(across * pair.width)}, y ${Math.floor(down * pair.height)}`;
  const values = chosen().map((axis) => {
    const map = state.maps.get(axis.name);
    if (!map) return "";
    const value = map.values[Math.floor(down * map.height) * map.width + Math.floor(across * map.width)] * pair.limit;
    return Math.abs(value) < 0.005 * pair.limit ? `${axis.title} 0` : `${axis.title} ${signed(value)}`;
  });
  by("readout").textContent = [at, ...values.filter(Boolean)].join(" · ");
}

// ---- Border, zoom, keys ----------------------------------------------------------------------------------------

function moveBorder(share) {
  state.border = Math.max(0, Math.min(1, share));
  by("slider").value = String(state.border * 100);
  by("slider").setAttribute("aria-valuetext", `${Math.round(state.border * 100)} % reference`);
  by("handle").style.left = `${state.border * 100}%`;
  const inside = (state.border - state.x) / state.zoom;
  by("picture").style.clipPath = `inset(0 0 0 ${Math.max(0, Math.min(1, inside)) * 100}%)`;
}

// x and y: where the picture's corner lies, as shares of the stage.
function view(zoom, x, y) {
  state.zoom = Math.max(1, Math.min(LARGEST_ZOOM, zoom));
  state.x = Math.max(1 - state.zoom, Math.min(0, x));
  state.y = Math.max(1 - state.zoom, Math.min(0, y));
  by("world").style.transform = `translate(${state.x * 100}%, ${state.y * 100}%) scale(${state.zoom})`;
  by("stage").classList.toggle("zoomed", state.zoom > 1);
  by("stage").dataset.zoom = state.zoom.toFixed(2);
  by("wider").disabled = by("whole").disabled = state.zoom <= 1;
  by("closer").disabled = state.zoom >= LARGEST_ZOOM;
  const width = by("stage").clientWidth || 1;
  // Not what the picture says of itself: it may not be there yet.
  const pixels = state.pair.width * state.pair.shown;
  by("world").classList.toggle("sharp", (width * state.zoom) / pixels > 2);
  sizeOutline();
  moveBorder(state.border);
}

function centre(zoom, across, down) {
  const z = Math.max(1, Math.min(LARGEST_ZOOM, zoom));
  view(z, 0.5 - across * z, 0.5 - down * z);
}

function zoomBy(factor, across = 0.5, down = 0.5) {
  const zoom = Math.max(1, Math.min(LARGEST_ZOOM, state.zoom * factor));
  const scale = zoom / state.zoom;
  view(zoom, across - (across - state.x) * scale, down - (down - state.y) * scale);
}

function glide() {
  by("world").classList.add("gliding");
  setTimeout(() => by("world").classList.remove("gliding"), 300);
}

function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

function listen() {
  const stage = by("stage");
  let drag = null;
  // Without this the press would take the focus away from the slider again.
  stage.addEventListener("mousedown", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const border = by("handle").contains(event.target) || state.zoom === 1;
    drag = { border, clientX: event.clientX, clientY: event.clientY, x: state.x, y: state.y };
    stage.setPointerCapture(event.pointerId);
    by("slider").focus({ preventScroll: true });
    follow(event);
  });
  const follow = (event) => {
    read(event);
    if (!drag) return;
    const area = stage.getBoundingClientRect();
    if (drag.border) moveBorder((event.clientX - area.left) / area.width);
    else view(state.zoom, drag.x + (event.clientX - drag.clientX) / area.width, drag.y + (event.clientY - drag.clientY) / area.height);
  };
  stage.addEventListener("pointermove", follow);
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { drag = null; });
  stage.addEventListener("wheel", (event) => {
    // A plain wheel goes on scrolling the page.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const area = stage.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 200), (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
  }, { passive: false });
  by("slider").addEventListener("input", (event) => moveBorder(event.target.value / 100));
  for (const id of ["maps", "grey"]) {
    by(id).addEventListener("click", () => {
      press(by(id), by(id).getAttribute("aria-pressed") !== "true");
      drawOverlay();
    });
  }
  by("closer").addEventListener("click", () => { glide(); zoomBy(1.6); });
  by("wider").addEventListener("click", () => { glide(); zoomBy(1 / 1.6); });
  by("whole").addEventListener("click", leave);
  by("previous").addEventListener("click", () => step(-1));
  by("next").addEventListener("click", () => step(1));
  addEventListener("hashchange", route);
  addEventListener("resize", () => { if (state.pair) view(state.zoom, state.x, state.y); });
  addEventListener("keydown", (event) => { if (event.key === "Escape" && state.pair) leave(); });
  by("theme").addEventListener("click", () => setTheme(dark() ? "light" : "dark"));
}

function dark() {
  const set = document.documentElement.style.colorScheme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function setTheme(scheme) {
  if (scheme) document.documentElement.style.colorScheme = scheme;
  by("theme").textContent = dark() ? "Light" : "Dark";
}

const withPictures = () => data.pairs.filter((pair) => pair.picture);

function step(offset) {
  const pairs = withPictures();
  const at = pairs.indexOf(state.pair);
  location.hash = String(pairs[(at + offset + pairs.length) % pairs.length].number);
}

function route() {
  const pairs = withPictures();
  if (!pairs.length) return;
  const asked = pairs.find((pair) => String(pair.number) === location.hash.slice(1));
  const worst = pairs.reduce((a, b) => (b.distance > a.distance ? b : a));
  show(asked || worst);
}

by("made").textContent = data.made;
by("index").hidden = data.pairs.length + data.skipped.length < 2;
by("walk").hidden = withPictures().length < 2;
setTheme("");
drawRamp();
listen();
drawSummary();
drawIndex();
route();
