"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);

const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function picture(id, [width, height], alt) {
  return element("img", { src: pictures[id], width, height, alt });
}

// Options are [value, text]; a choice that is still possible stays.
function fillSelect(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => String(value) === chosen)) select.value = chosen;
}

const pixels = (resolutions) => unique(resolutions).map((value) => [value, `${value} px`]);

// Positions of the keys that one of the images has.
const keysOf = (images) =>
  data.keys.map((_, key) => key).filter((key) => images.some((image) => image.results[key]));

const named = (keys) => keys.map((key) => [key, data.keys[key]]);

// ---- Tables that a click on a header sorts ----

function sortRows(table) {
  const headers = [...table.tHead.rows[0].cells];
  const column = headers.findIndex((header) => header.ariaSort !== "none");
  if (column < 0) return;
  const sign = headers[column].ariaSort === "ascending" ? 1 : -1;
  const isNumber = headers[column].classList.contains("number");
  const compare = (a, b) => {
    const [one, other] = [a.cells[column], b.cells[column]];
    if (!isNumber) return sign * one.textContent.localeCompare(other.textContent);
    // What was not measured comes last, whichever the order.
    if (one.dataset.value === "" || other.dataset.value === "") {
      return (one.dataset.value === "") - (other.dataset.value === "");
    }
    const [x, y] = [Number(one.dataset.value), Number(other.dataset.value)];
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  for (const header of headers) {
    header.firstElementChild.addEventListener("click", () => {
      const sort = header.ariaSort === "ascending" ? "descending" : "ascending";
      headers.forEach((other) => { other.ariaSort = "none"; });
      header.ariaSort = sort;
      sortRows(table);
    });
  }
}

function numberCell(cell) {
  const node = element("td", { className: "number" }, cell.text);
  node.dataset.value = cell.value ?? "";
  return node;
}

// ---- Metrics of each image ----

function showImagesTable() {
  const resolution = Number(byId("images-resolution").value);
  const images = data.images.filter((image) => image.resolution === resolution);
  fillSelect(byId("images-key"), named(keysOf(images)));
  const key = Number(byId("images-key").value);
  const rows = images.filter((image) => image.results[key]).map((image) => {
    const name = element("button", { type: "button", className: "link" }, image.name);
    const row = element(
      "tr",
      {},
      numberCell({ text: String(image.index), value: image.index }),
      element("td", {}, name),
      ...image.results[key].metrics.map(numberCell),
    );
    row.addEventListener("click", () => openInViewer(image, key));
    return row;
  });
  byId("images-table").tBodies[0].replaceChildren(...rows);
  sortRows(byId("images-table"));
}

function startImagesTable() {
  fillSelect(byId("images-resolution"), pixels(data.images.map((image) => image.resolution)));
  byId("images-resolution").addEventListener("change", showImagesTable);
  byId("images-key").addEventListener("change", showImagesTable);
  showImagesTable();
}

// ---- Worst images ----

function showWorst() {
  const resolution = Number(byId("worst-resolution").value);
  let lists = data.worst.filter((list) => list.resolution === resolution);
  fillSelect(byId("worst-key"), named(unique(lists.map((list) => list.key))));
  lists = lists.filter((list) => list.key === Number(byId("worst-key").value));
  fillSelect(byId("worst-metric"), lists.map((list) => [list.metric, data.metrics[list.metric].label]));
  const { key, metric, images } = lists.find(
    (list) => list.metric === Number(byId("worst-metric").value),
  );
  const cards = images.map((position) => {
    const image = data.images[position];
    const result = image.results[key];
    const card = element(
      "button",
      { type: "button", className: "card" },
      element(
        "span",
        { className: "pair" },
        picture(image.original, image.size, "original"),
        picture(result.picture, image.size, data.keys[key]),
      ),
      element("b", {}, `${data.metrics[metric].label} ${result.metrics[metric].text}`),
      element("span", { className: "name" }, image.name),
    );
    card.addEventListener("click", () => openInViewer(image, key));
    return element("li", {}, card);
  });
  byId("worst-list").replaceChildren(...cards);
}

function startWorst() {
  fillSelect(byId("worst-resolution"), pixels(data.worst.map((list) => list.resolution)));
  for (const id of ["worst-resolution", "worst-key", "worst-metric"]) {
    byId(id).addEventListener("change", showWorst);
  }
  showWorst();
}

// ---- Decoding from t = 1 to 0 ----

function showTrajectoryTime() {
  const trajectory = data.trajectories[Number(byId("trajectory").value)];
  const step = Number(byId("trajectory-time").value);
  const views = trajectory.original === null ? [] : [["original", trajectory.original]];
  views.push(["state at t", trajectory.states[step]]);
  if (step < trajectory.estimates.length) views.push(["estimate of t = 0", trajectory.estimates[step]]);
  byId("trajectory-view").replaceChildren(
    ...views.map(([caption, id]) =>
      element("figure", {}, picture(id, trajectory.size, caption), element("figcaption", {}, caption)),
    ),
  );
  byId("trajectory-now").textContent = `t = ${trajectory.times[step]}`;
  for (const row of byId("trajectory-strip").rows) {
    [...row.cells].forEach((cell, i) => cell.classList.toggle("now", i === step + 1));
  }
}

function showTrajectory() {
  const trajectory = data.trajectories[Number(byId("trajectory").value)];
  const row = (title, cells) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, title),
      ...cells.map((content, step) => {
        const cell = element("td", {}, content);
        cell.addEventListener("click", () => {
          byId("trajectory-time").value = step;
          showTrajectoryTime();
        });
        return cell;
      }),
    );
  byId("trajectory-strip").tBodies[0].replaceChildren(
    row("state", trajectory.states.map((id, i) => picture(id, trajectory.size, `t = ${trajectory.times[i]}`))),
    row("estimate", trajectory.estimates.map((id, i) => picture(id, trajectory.size, `t = ${trajectory.times[i]}`))),
    row("t", trajectory.times),
  );
  byId("trajectory-time").max = trajectory.states.length - 1;
  byId("trajectory-time").value = 0;
  showTrajectoryTime();
}

function startTrajectories() {
  fillSelect(byId("trajectory"), data.trajectories.map((trajectory, i) => [i, trajectory.title]));
  byId("trajectory").addEventListener("change", showTrajectory);
  byId("trajectory-time").addEventListener("input", showTrajectoryTime);
  showTrajectory();
}

for (const image of document.querySelectorAll("img[data-picture]")) {
  image.src = pictures[image.dataset.picture];
}
if (data.images.length) startImagesTable();
if (data.worst.length) startWorst();
if (data.trajectories.length) startTrajectories();
