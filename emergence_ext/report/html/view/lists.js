// Lists that rank, the confusion matrix, and the table of what is shown.

const LONGEST = 24, ROWS = 200;
const LISTS = ["misread", "others", "shared", "moved", "outliers", "confusion", "table"];

class Lists {
  constructor(root, app) {
    Object.assign(this, app);
    this.root = root;
    this.part = (name) => root.querySelector(`[data-list="${name}"]`);
    this.stale = new Set();
    // Pictures take time: a list is made anew only where it is in sight, or nearly.
    this.sight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) target.inSight = isIntersecting;
      this.make();
    }, { rootMargin: "300px" });
    for (const name of LISTS) this.sight.observe(this.part(name));
  }

  show(marked) {
    this.marked = marked;
    const { hidden, e } = this.state, seen = JSON.stringify([hidden, this.palette.dark]);
    for (const name of LISTS) {
      // Of what is shown in the view, but for two.
      const key = { misread: seen, outliers: `${seen} ${e}` }[name];
      if (key === undefined || key !== this.part(name).madeFor) this.stale.add(name);
      this.part(name).madeFor = key;
    }
    this.make();
  }

  make() {
    for (const name of [...this.stale].filter((each) => this.part(each).inSight)) {
      this.stale.delete(name);
      if (name !== "table" || this.part("table").open) this[name](this.marked);
    }
  }

  strip(name, cards, none) {
    this.part(name).replaceChildren(...(cards.length ? cards : [el("p", { className: "note", textContent: none })]));
  }

  misread() {
    const { data } = this;
    const wrong = data.images.filter((x) => x.says !== x.y && !this.state.hidden.includes(x.y));
    wrong.sort((a, b) => b.sure - a.sure);
    this.strip("misread", wrong.slice(0, LONGEST).map((x) => card(this, x.index, null,
      `${clipped(data.short[x.y], 16)} → ${clipped(data.short[x.says], 16)}, ${percent(x.sure)}`, 84)), "The network misreads none of these images.");
  }

  // Images whose sample lies far from the ray of every category.
  outliers() {
    const { data, state } = this, frame = data.decodedSamples[state.e];
    const far = data.images.slice(0, data.shown).filter((x) => !state.hidden.includes(x.y)).map((x) => {
      const g = data.coordinates(frame, x.index), length = Math.hypot(...g) || 1;
      const cosines = data.directions.map((mu) => mu.reduce((sum, m, d) => sum + m * g[d], 0) / length);
      return [x.index, Math.acos(Math.min(1, Math.max(...cosines))) * 180 / Math.PI];
    }).sort((a, b) => b[1] - a[1]);
    this.strip("outliers", far.slice(0, LONGEST).map(([index, angle]) => card(this, index, null, `${clipped(data.short[data.images[index].y], 16)}, ${angle.toFixed(0)}° off`, 84)), "No image is shown.");
  }

  // The region of each image that is worth the most, if that is anything; the first of these.
  bestOfEach(worth) {
    const { data } = this, best = [];
    for (let image = 0; image < data.shown; image++) {
      let top = { i: -1, value: 0 };
      for (let i = image * data.regions; i < (image + 1) * data.regions; i++) {
        const value = worth(i);
        if (value > top.value) top = { i, value };
      }
      if (top.i >= 0) best.push(top);
    }
    return best.sort((a, b) => b.value - a.value).slice(0, LONGEST);
  }

  regionCards(name, best, words, none) {
    const { data } = this;
    this.strip(name, best.map(({ i, value }) => card(this, Math.floor(i / data.regions), i % data.regions, words(i, value), 84)), none);
  }

  says(frame, i) {
    const says = frame.category[i];
    return `${clipped(this.data.short[says], 16)}, ${percent(this.data.posterior(frame, i)[says])}`;
  }

  others({ kinds }) {
    const { data, state } = this, frame = data.frame(state.e, state.l);
    this.regionCards("others", this.bestOfEach((i) => (kinds[i] === OTHER ? frame.passed[i] : 0)),
      (i) => `${clipped(data.short[data.images[Math.floor(i / data.regions)].y], 16)} → ${this.says(frame, i)}`, "No region that is shown is a knowledge point for another category.");
  }

  shared({ kinds }) {
    const { data, state } = this, frame = data.frame(state.e, state.l), { second, share } = data.shared(frame);
    this.regionCards("shared", this.bestOfEach((i) => (kinds[i] >= RIGHT ? share[i] : 0)),
      (i, value) => `${clipped(data.short[frame.category[i]], 16)} and ${clipped(data.short[second[i]], 16)}, ${percent(value / 255)}`,
      "No knowledge point that is shown speaks for two categories alike.");
  }

  // From what stands beside, else from the first checkpoint, to what is shown; an attack goes the other way.
  moved({ kinds }) {
    const { data, state } = this, first = state.e ? "e0" : `e${data.checkpoints.length - 1}`;
    const side = new Beside(data, { ...state, beside: state.beside || first }), here = data.frame(state.e, state.l), there = side.now;
    const label = data.checkpoints[state.e].label, later = side.other || side.e > state.e;
    const [from, to] = later ? [here, there] : [there, here];
    const same = !side.other && side.e === state.e;
    this.part("moved-title").textContent = same ? "Regions that moved most"
      : `Regions that moved most, ${later ? `${label} to ${side.label}` : `${side.label} to ${label}`}`;
    this.regionCards("moved", same ? [] : this.bestOfEach((i) => (kinds[i] ? data.distance(here, there, i) : 0)),
      (i, far) => `${clipped(data.short[from.category[i]], 12)} → ${clipped(data.short[to.category[i]], 12)}, by ${far.toFixed(1)}`,
      "No region that is shown moved.");
  }

  // Cells of [true, said, count]: images by the network's answer, or knowledge points by theirs.
  cells({ kinds }) {
    const { data, state } = this;
    if (this.matrixOf === "images") return data.confusion;
    const frame = data.frame(state.e, state.l), counts = new Map();
    for (let i = 0; i < data.points; i++) {
      if (kinds[i] < RIGHT) continue;
      const key = data.images[Math.floor(i / data.regions)].y * data.categories.length + frame.category[i];
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    const C = data.categories.length;
    return [...counts].map(([key, n]) => [Math.floor(key / C), key % C, n]);
  }

  confusion(marked) {
    const { data, state } = this, C = data.categories.length, cells = this.cells(marked);
    for (const button of this.root.querySelectorAll("[data-matrix]")) {
      button.setAttribute("aria-pressed", String(button.dataset.matrix === this.matrixOf));
    }
    const chosen = (y, says) => state.cell?.kind === this.matrixOf && state.cell.y === y && state.cell.says === says;
    const button = (y, says, n, words) => el("button", {
      type: "button", textContent: words, "aria-pressed": String(chosen(y, says)),
      "aria-label": `${data.categories[y]} taken for ${data.categories[says]}: ${n}; show only these`,
      on: { click: () => this.set({ cell: chosen(y, says) ? null : { kind: this.matrixOf, y, says }, who: "all" }) },
    });
    const box = this.part("confusion");
    this.part("confusion-words").textContent = `${C > 20 ? "The most frequent pairs" : "Rows: true category; columns"}: what ${this.matrixOf === "images"
      ? "the finished network says of all images analysed." : "the knowledge points say that are shown in the view now."}`;
    if (C > 20) {
      const wrong = cells.filter(([y, says]) => y !== says).sort((a, b) => b[2] - a[2]).slice(0, 40);
      box.replaceChildren(el("ul", { className: "pairs-list" }, ...wrong.map(([y, says, n]) =>
        el("li", {}, button(y, says, n, `${data.short[y]} → ${data.short[says]}: ${thousands(n)}`)))));
      return;
    }
    const table = Array.from({ length: C }, () => new Array(C).fill(0));
    for (const [y, says, n] of cells) table[y][says] = n;
    const rows = table.map((row, y) => {
      const total = row.reduce((a, b) => a + b, 0) || 1;
      return el("tr", {}, el("th", { scope: "row", textContent: clipped(data.short[y], 16) }), ...row.map((n, says) => {
        const cell = el("td", { className: n ? (y === says ? "right" : "off") : "none" }, n ? button(y, says, n, thousands(n)) : null);
        cell.style.setProperty("--share", `${Math.round(100 * Math.sqrt(n / total))}%`);
        return cell;
      }));
    });
    box.replaceChildren(el("table", { className: "matrix" },
      el("thead", {}, el("tr", {}, el("td"), ...data.short.map((name) => el("th", { scope: "col", textContent: clipped(name, 12) })))),
      el("tbody", {}, ...rows)));
  }

  // One row for each region that passes the filters.
  rows({ kinds }) {
    const { data, state } = this, frame = data.frame(state.e, state.l), found = [], columns = data.grid[1];
    for (let i = 0; i < data.points; i++) {
      if (!kinds[i]) continue;
      const { name, y } = data.images[Math.floor(i / data.regions)], says = frame.category[i], r = i % data.regions;
      const w = data.importance(frame, i);
      found.push([i, name, data.categories[y], Math.floor(r / columns) + 1, r % columns + 1, data.categories[says],
        data.posterior(frame, i)[says].toFixed(3), data.strength(frame, i).toFixed(3), w === null ? "" : w.toFixed(3),
        kinds[i] === FAINT ? "no" : "yes", kinds[i] === RIGHT ? "yes" : "no"]);
    }
    return found;
  }

  table(marked) {
    const rows = this.rows(marked), { data } = this;
    const body = rows.slice(0, ROWS).map(([i, name, ...cells]) => el("tr", {},
      el("td", {}, el("button", { type: "button", className: "link", textContent: name,
        on: { click: () => this.choose(Math.floor(i / data.regions), i % data.regions) } })),
      ...cells.map((text) => el("td", { textContent: text }))));
    this.part("rows").replaceChildren(
      el("p", { className: "note", textContent: `${rows.length > ROWS ? `The first ${ROWS} of ` : ""}${plural(rows.length, "region")} that pass the filters; the file holds all.` }),
      el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Regions that are shown" },
        el("table", {}, el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col", textContent: name })))), el("tbody", {}, ...body))));
  }

  csv(marked) {
    const { data, state } = this;
    const places = [data.checkpoints[state.e].label, data.layers[state.l], String(data.taus[state.tau])];
    const lines = this.rows(marked).map(([, ...cells]) => [...cells, ...places]);
    return [[...COLUMNS, "checkpoint", "layer", "tau"], ...lines].map((line) => line.map(csvCell).join(",")).join("\n") + "\n";
  }
}

const COLUMNS = ["image", "category", "row", "column", "says", "p", "|h|", "w", "knowledge point", "reliable"];

// As the files beside the report: a name that a spreadsheet would run has an apostrophe before it.
function csvCell(text) {
  const plain = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text);
  const risky = !plain && /^'*\s*[=+@\-\uff1d\uff0b\uff20\uff0d]/.test(text);
  const safe = risky ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
