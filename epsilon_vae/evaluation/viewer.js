// The viewer: two pictures one over the other, a line that wipes between them, zoom and pan.

const ORIGINAL = "original";
const ZOOMS = [1, 2, 4, 8, 16, 32];

// `left` and `right` are positions of keys or ORIGINAL; `wipe` is a share of what is seen of the
// picture; `x` and `y` are where the picture's corner is on the stage, in CSS pixels.
const view = { image: null, left: ORIGINAL, right: ORIGINAL, wipe: 0.5, zoom: 1, x: 0, y: 0 };

const stageSize = () => [byId("stage").clientWidth, byId("stage").clientHeight];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Whole numbers keep all pixels the same size.
function fittingZoom() {
  const [width, height] = stageSize();
  const share = Math.min(width / view.image.size[0], height / view.image.size[1]);
  return share < 1 ? share : Math.floor(share);
}

function pictureOf(side) {
  return side === ORIGINAL ? view.image.original : view.image.results[side].picture;
}

const labelOf = (side) => (side === ORIGINAL ? ORIGINAL : data.keys[side]);

// From one edge to the other of what the stage shows of the picture, along one axis.
function seen(start, length, stage) {
  return [Math.max(0, start), Math.min(stage, start + length)];
}

function place() {
  const [width, height] = stageSize();
  const [pictureWidth, pictureHeight] = view.image.size.map((length) => length * view.zoom);
  const limit = (start, length, stage) =>
    length <= stage ? Math.round((stage - length) / 2) : clamp(start, stage - length, 0);
  view.x = limit(view.x, pictureWidth, width);
  view.y = limit(view.y, pictureHeight, height);
  for (const id of ["left-picture", "right-picture"]) {
    Object.assign(byId(id).style, {
      width: `${pictureWidth}px`,
      height: `${pictureHeight}px`,
      transform: `translate(${view.x}px, ${view.y}px)`,
      imageRendering: view.zoom < 1 ? "auto" : "pixelated",
    });
  }
  const [first, last] = seen(view.x, pictureWidth, width);
  const [top, bottom] = seen(view.y, pictureHeight, height);
  const line = first + view.wipe * (last - first);
  byId("left-layer").style.clipPath = `inset(0 ${width - line}px 0 0)`;
  byId("right-layer").style.clipPath = `inset(0 0 0 ${line}px)`;
  Object.assign(byId("wipe").style, {
    left: `${line}px`, top: `${top}px`, height: `${bottom - top}px`,
  });
  byId("wipe").ariaValueNow = Math.round(100 * view.wipe);
  const pans = pictureWidth > width || pictureHeight > height;
  byId("stage").classList.toggle("pans", pans);
  for (const button of byId("zooms").children) {
    const isOther = !ZOOMS.includes(view.zoom) && view.zoom === fittingZoom();
    button.ariaPressed = button.value ? Number(button.value) === view.zoom : isOther;
  }
}

// (x, y) on the stage stays where it is; by default its centre.
function zoomTo(zoom, x = stageSize()[0] / 2, y = stageSize()[1] / 2) {
  view.x = x - ((x - view.x) * zoom) / view.zoom;
  view.y = y - ((y - view.y) * zoom) / view.zoom;
  view.zoom = zoom;
  place();
}

function zoomBy(direction, x, y) {
  const further = ZOOMS.filter((zoom) => direction * (zoom - view.zoom) > 0);
  if (further.length) zoomTo(direction > 0 ? further[0] : further.at(-1), x, y);
}

function wipeTo(share) {
  view.wipe = clamp(share, 0, 1);
  place();
}

function wipeToPointer(event) {
  const [first, last] = seen(view.x, view.image.size[0] * view.zoom, stageSize()[0]);
  const x = event.clientX - byId("stage").getBoundingClientRect().left;
  wipeTo((x - first) / (last - first));
}

// A line for each metric, and a column for each key; those on the stage come first.
function showMetrics() {
  const present = keysOf([view.image]);
  const onStage = unique([view.left, view.right]).filter((key) => present.includes(key));
  const keys = [...onStage, ...present.filter((key) => !onStage.includes(key))];
  const shownClass = (key) => (onStage.includes(key) ? " shown" : "");
  const head = element("tr", {}, element("th", { scope: "col" }, "Metric"));
  for (const key of keys) {
    const name = element("span", {}, data.keys[key]);
    head.append(element("th", { scope: "col", className: `number${shownClass(key)}` }, name));
  }
  const rows = data.metrics.map((metric, place) => {
    const cells = keys.map((key) => view.image.results[key].metrics[place]);
    const values = cells.filter(({ value }) => value !== null).map(({ value }) => Number(value));
    const best = Math[metric.isLargerBetter ? "max" : "min"](...values);
    const nodes = cells.map((cell, i) => {
      const node = numberCell(cell);
      const isBest = values.some((value) => value !== best) && Number(node.dataset.value || NaN) === best;
      node.className += (isBest ? " best" : "") + shownClass(keys[i]);
      return node;
    });
    return element("tr", {}, element("th", { scope: "row" }, metric.heading), ...nodes);
  });
  byId("viewer-metrics").tHead.replaceChildren(head);
  byId("viewer-metrics").tBodies[0].replaceChildren(...rows);
}

function showSides() {
  for (const side of ["left", "right"]) {
    byId(`${side}-picture`).src = pictures[pictureOf(view[side])];
    byId(`${side}-picture`).alt = labelOf(view[side]);
    byId(`${side}-label`).textContent = labelOf(view[side]);
    byId(`viewer-${side}`).value = view[side];
  }
  showMetrics();
  place();
}

function showImage(image) {
  const isSameSize = String(image.size) === String(view.image?.size);
  const isSameStrip = image.resolution === view.image?.resolution;
  view.image = image;
  if (!isSameStrip) fillStrip();
  const keys = keysOf([image]);
  for (const side of ["left", "right"]) {
    fillSelect(byId(`viewer-${side}`), [[ORIGINAL, ORIGINAL], ...named(keys)]);
    if (!keys.includes(view[side])) view[side] = ORIGINAL;
  }
  if (view.left === view.right && keys.length) view.right = keys.at(-1);
  byId("viewer-resolution").value = image.resolution;
  byId("viewer-name").textContent = image.name;
  for (const button of byId("strip").children) {
    button.ariaPressed = button.value === String(data.images.indexOf(image));
    if (button.ariaPressed === "true") {
      byId("strip").scrollLeft =
        button.offsetLeft + (button.offsetWidth - byId("strip").clientWidth) / 2;
    }
  }
  if (!isSameSize) view.zoom = fittingZoom();
  showSides();
}

function fillStrip() {
  const buttons = data.images.flatMap((image, position) => {
    if (image.resolution !== view.image.resolution) return [];
    const button = element(
      "button",
      { type: "button", value: position, title: image.name },
      picture(image.original, image.size, image.name),
    );
    button.addEventListener("click", () => showImage(image));
    return [button];
  });
  byId("strip").replaceChildren(...buttons);
}

function openInViewer(image, key) {
  view.left = ORIGINAL;
  view.right = key;
  showImage(image);
  byId("viewer").scrollIntoView();
}

function listenToStage() {
  const stage = byId("stage");
  let drag = null; // "wipe" or "pan"
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const pans = stage.classList.contains("pans") && event.target !== byId("wipe");
    drag = pans ? "pan" : "wipe";
    stage.setPointerCapture(event.pointerId);
    if (drag === "wipe") wipeToPointer(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (drag === "wipe") wipeToPointer(event);
    if (drag === "pan") {
      view.x += event.movementX;
      view.y += event.movementY;
      place();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => { drag = null; });
  }
  // A bare wheel scrolls the page, as it does everywhere else on it.
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const corner = stage.getBoundingClientRect();
    zoomBy(-Math.sign(event.deltaY), event.clientX - corner.left, event.clientY - corner.top);
  }, { passive: false });
  byId("wipe").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1 };
    const shares = { Home: 0, End: 1 };
    if (event.key in steps) wipeTo(view.wipe + steps[event.key]);
    else if (event.key in shares) wipeTo(shares[event.key]);
    else if (event.key === "+" || event.key === "-") zoomBy(event.key === "+" ? 1 : -1);
    else return;
    event.preventDefault();
  });
}

function startViewer() {
  fillSelect(byId("viewer-resolution"), pixels(data.images.map((image) => image.resolution)));
  byId("viewer-resolution").addEventListener("change", (event) => {
    const images = data.images.filter((image) => image.resolution === Number(event.target.value));
    showImage(images.find((image) => image.index === view.image.index) ?? images[0]);
  });
  for (const side of ["left", "right"]) {
    byId(`viewer-${side}`).addEventListener("change", (event) => {
      view[side] = event.target.value === ORIGINAL ? ORIGINAL : Number(event.target.value);
      showSides();
    });
  }
  const zooms = [["", "Fit"], ...ZOOMS.map((zoom) => [zoom, `${zoom}×`])];
  for (const [value, text] of zooms) {
    const button = element("button", { type: "button", value }, text);
    button.addEventListener("click", () => zoomTo(Number(value) || fittingZoom()));
    byId("zooms").append(button);
  }
  listenToStage();
  new ResizeObserver(place).observe(byId("stage"));
  // Two reconstructors against each other, or the only one against the original.
  view.right = data.opens.at(-1);
  if (data.opens.length > 1) view.left = data.opens[0];
  const hasBoth = (image) => data.opens.every((key) => image.results[key]);
  showImage(data.images.find(hasBoth) ?? data.images[0]);
}

if (data.images.length) startViewer();
