"use strict";
// Filters, sorts, groups and points things out. All text goes in through textContent; the page works without this.
const { texts, planes, models, layers } = JSON.parse(document.getElementById("facts").textContent);
const SVG = "http://www.w3.org/2000/svg";
const REACH = 14; // picture units within which a pointer finds a mark
const MANY = 12; // models from which on they are grouped at first
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, name = "", text = "") => {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
};

// A tip beside a place on the screen.
const tip = document.body.appendChild(make("div", "tip"));
tip.setAttribute("role", "status");
tip.hidden = true;
const kind = tip.appendChild(make("b"));
const words = tip.appendChild(make("bdi"));
const hide = () => { tip.hidden = true; };
const show = (x, y, text, head = "") => {
  kind.textContent = head;
  words.textContent = text;
  tip.hidden = false;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(x + 12, room))}px`;
  tip.style.top = `${y + 14 + tip.offsetHeight > innerHeight ? y - 12 - tip.offsetHeight : y + 14}px`;
};
const showAt = (element, text) => {
  const box = element.getBoundingClientRect();
  show(box.left + box.width / 2, box.top + box.height / 2, text);
};
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

// What belongs to a model is marked together: its marks, lines and rows.
const owned = new Map();
for (const element of all("[data-model]")) {
  const name = element.dataset.model;
  owned.set(name, [...(owned.get(name) || []), element]);
}
let marked = "";
const mark = (name) => {
  for (const element of owned.get(marked) || []) element.classList.remove("on");
  marked = name || "";
  for (const element of owned.get(marked) || []) element.classList.add("on");
};

// Titles of pictures become tips, which a keyboard reaches too.
const titled = new Map();
for (const title of all("svg title")) {
  titled.set(title.parentNode, title.textContent);
  title.remove();
}
const point = (element) => {
  mark(element.dataset.model);
  showAt(element, titled.get(element));
};
for (const element of titled.keys()) {
  element.addEventListener("pointerenter", () => point(element));
  element.addEventListener("pointerleave", () => { hide(); mark(""); });
}
for (const svg of all("svg.walk")) {
  svg.tabIndex = 0;
  let at = null;
  svg.addEventListener("blur", () => { hide(); mark(""); at = null; });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const points = all(".point:not(.off)", svg);
    if (!step || !points.length) return;
    event.preventDefault();
    const left = (element) => element.getBoundingClientRect().left;
    points.sort((a, b) => left(a) - left(b));
    at = points[(points.indexOf(at) + step + (at ? 0 : step < 0 ? 1 : 0) + points.length) % points.length];
    point(at);
  });
}

// Of a figure's groups, the chosen one is shown.
for (const select of all("select.choose")) {
  const groups = all(".group", select.closest(".figure"));
  const choose = () => groups.forEach((group, index) => { group.hidden = index !== Number(select.value); });
  select.addEventListener("change", choose);
  choose();
}

// Planes of hidden states: a pointer or the arrow keys read a prompt.
for (const svg of all("svg.plane")) {
  const marks = planes[Number(svg.dataset.plane)];
  const order = marks.map((_, index) => index).sort((a, b) => marks[a][0] - marks[b][0]);
  const ring = document.createElementNS(SVG, "circle");
  ring.setAttribute("class", "ring");
  ring.setAttribute("r", "5");
  let at = -1; // place in `order`, for the arrow keys
  const leave = () => { hide(); ring.remove(); };
  const read = (index) => {
    const [x, y, text] = marks[index];
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    svg.append(ring);
    const place = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    show(place.x, place.y, texts[text][1], texts[text][0]);
  };
  const nearest = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = marks.map(([x, y]) => Math.hypot(x - place.x, y - place.y));
    const index = far.indexOf(Math.min(...far));
    return far[index] <= REACH ? index : -1;
  };
  const follow = (event) => {
    const index = nearest(event);
    at = order.indexOf(index);
    if (index < 0) leave();
    else read(index);
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.tabIndex = 0;
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    at = (Math.max(at, step < 0 ? 0 : -1) + step + order.length) % order.length;
    read(order[at]);
  });
}

// The heat table is a grid: one cell can be tabbed to, the arrow keys go on from there.
const entrances = []; // each keeps a grid's cell for the Tab key among the rows that are shown
for (const grid of all("table.heat")) {
  const rows = () => all("tbody tr[data-model]:not(.off)", grid);
  const enter = (cell) => {
    for (const other of all("td[tabindex='0']", grid)) other.tabIndex = -1;
    cell.tabIndex = 0;
  };
  const read = (cell) => {
    mark(cell.parentNode.dataset.model);
    showAt(cell, cell.querySelector(".sr").textContent);
  };
  for (const cell of all("td", grid)) {
    cell.tabIndex = -1;
    cell.addEventListener("pointerenter", () => read(cell));
    cell.addEventListener("pointerleave", () => { hide(); mark(""); });
    cell.addEventListener("focus", () => { enter(cell); read(cell); });
    cell.addEventListener("blur", () => { hide(); mark(""); });
  }
  entrances.push(() => {
    const cell = grid.querySelector("td[tabindex='0']");
    const row = rows()[0];
    if (row && (!cell || cell.parentNode.classList.contains("off"))) enter(row.querySelector("td"));
  });
  entrances.forEach((keep) => keep());
  grid.addEventListener("keydown", (event) => {
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const cell = event.target.closest("td");
    if (!move || !cell) return;
    event.preventDefault();
    const list = rows();
    const row = list[Math.min(Math.max(list.indexOf(cell.parentNode) + move[0], 0), list.length - 1)];
    const cells = all("td", row);
    cells[Math.min(Math.max(all("td", cell.parentNode).indexOf(cell) + move[1], 0), cells.length - 1)].focus();
  });
}

// Tables are sorted by a column and grouped by data or method.
const filter = document.getElementById("filter");
const group = document.getElementById("group");
const tables = all("table.data, table.heat").map((table) => {
  const body = table.tBodies[0];
  return { table, body, rows: [...body.rows], column: -1, down: false };
});
const keyOf = (row, column) => {
  const cell = row.cells[column];
  if (column === 0) return cell.textContent;
  return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
};
const compare = (state) => (a, b) => {
  const [x, y] = [keyOf(a, state.column), keyOf(b, state.column)];
  if (x === null || y === null) return (x === null) - (y === null); // what has no number comes last
  const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
  return state.down ? -order : order;
};
const arrange = (state) => {
  for (const head of all("tr.head", state.body)) head.remove();
  const rows = state.column < 0 ? state.rows : [...state.rows].sort(compare(state));
  const groups = new Map();
  for (const row of rows) {
    const model = group && group.value ? models[row.dataset.model] : undefined;
    const name = model ? model[group.value] : "";
    groups.set(name, [...(groups.get(name) || []), row]);
  }
  for (const [name, members] of groups) {
    if (name && members.some((row) => !row.classList.contains("off"))) {
      const head = make("tr", "head");
      const cell = head.appendChild(make("th", "band", name));
      cell.colSpan = members[0].cells.length;
      cell.scope = "rowgroup";
      state.body.append(head);
    }
    state.body.append(...members);
  }
};
for (const state of tables.filter((state) => state.table.classList.contains("data"))) {
  const heads = [...state.table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const numeric = state.rows.some((row) => row.cells[column] && row.cells[column].dataset.v !== undefined);
    if (column > 0 && !numeric) return;
    const button = make("button", "sort");
    button.type = "button";
    button.append(...head.childNodes);
    const arrow = make("i", "arrow");
    arrow.setAttribute("aria-hidden", "true");
    button.insertBefore(arrow, button.querySelector("small"));
    head.append(button);
    button.addEventListener("click", () => {
      state.down = state.column === column ? !state.down : false;
      state.column = column;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      arrange(state);
    });
  });
}

// The filter keeps the models that hold every word of it, in all tables and pictures.
const names = Object.keys(models || {});
const sift = () => {
  const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const name of names) {
    const text = `${Object.values(models[name]).join(" ")} ${name}`.toLowerCase();
    const hit = wanted.every((word) => text.includes(word));
    count += hit;
    for (const element of owned.get(name) || []) element.classList.toggle("off", !hit);
  }
  document.getElementById("count").textContent = wanted.length ? `${count} of ${names.length} models` : `${count} models`;
  tables.forEach(arrange);
  entrances.forEach((keep) => keep());
};
if (filter) {
  if (names.length > MANY) group.value = "data";
  filter.addEventListener("input", sift);
  group.addEventListener("change", () => tables.forEach(arrange));
  sift();
}

// The layer slider moves a line over the curves and fills the table below them.
const slider = document.getElementById("layer");
if (slider) {
  const figure = document.querySelector("#layers .figure");
  const select = figure.querySelector("select.choose");
  const positions = Object.keys(layers);
  const pictures = all("figure svg", figure);
  const lines = pictures.map((svg) => {
    const line = document.createElementNS(SVG, "line");
    line.setAttribute("class", "cursor");
    line.setAttribute("y1", "6");
    line.setAttribute("y2", "152");
    svg.append(line);
    return line;
  });
  const numbers = layers[positions[0]].numbers;
  const rows = all("table.at-layer tbody tr[data-model]");
  const fill = () => {
    const data = layers[positions[select ? Number(select.value) : 0]];
    const index = Number(slider.value);
    document.getElementById("layer-value").textContent = numbers[index];
    slider.setAttribute("aria-valuetext", `layer ${numbers[index]}`);
    for (const line of lines) {
      line.setAttribute("x1", data.at[index]);
      line.setAttribute("x2", data.at[index]);
    }
    for (const row of rows) {
      data.rows[row.dataset.model][index].forEach(([value, bounds, sort], column) => {
        const cell = row.cells[column + 1];
        cell.replaceChildren(value, ...(bounds ? [make("small", "", bounds)] : []));
        cell.classList.toggle("quiet", sort === null);
        if (sort === null) delete cell.dataset.v;
        else cell.dataset.v = sort;
      });
    }
    tables.filter((state) => state.table.classList.contains("at-layer")).forEach(arrange);
  };
  slider.addEventListener("input", fill);
  if (select) select.addEventListener("change", fill);
  fill();
}
