// The view put together: controls set the state, the state is drawn, described, and held in the address.

class View {
  constructor(section, data) {
    this.section = section;
    this.data = data;
    this.find = (name) => section.querySelector(`[data-view="${name}"]`);
    this.state = new State(data);
    this.pictures = new Pictures(data);
  }

  async start() {
    const { data, state } = this;
    await data.decodeFirst(state.e, state.l);
    this.scene = new Scene(this.find("stage"), data, state, new Side(data, state));
    this.second = new Scene(this.find("stage-b"), data, state, new Beside(data, state), this.scene);
    this.paint();
    this.find("ready").hidden = this.find("slides").hidden = false;
    this.find("flat").hidden = Boolean(this.scene.painter);
    this.refresh();
    await Promise.all([data.decodeAll(), this.pictures.ready()]);
    const shared = {
      data, state, pictures: this.pictures, palette: this.palette, matrixOf: "images",
      choose: (image, region) => this.choose(image, region), set: (changes) => this.set(changes), go: (place) => this.set(place),
    };
    this.inspector = new Inspector(this.find("picked"), shared);
    this.lists = new Lists(document.getElementById("look-at"), shared);
    this.lists.root.hidden = false;
    this.controls();
    this.fromAddress();
    addEventListener("hashchange", () => this.fromAddress());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.paint(); this.refresh(); });
    this.section.removeAttribute("aria-busy");
  }

  // Colours as the page has them, which follow dark mode.
  paint() {
    const style = getComputedStyle(document.documentElement), value = (name) => style.getPropertyValue(name).trim();
    const dark = matchMedia("(prefers-color-scheme: dark)").matches, background = value("--ground");
    const made = makePalette(this.data, background, dark);
    const ink = bytesOf(dark ? "#ffffff" : "#000000"), ground = bytesOf(background);
    const text = made.category.map((rgb) => {
      for (let k = 0; k < 20 && contrast(rgb, ground) < 4.5; k++) rgb = mixed(rgb, ink, 0.08);
      return rgb;
    });
    this.palette = Object.assign(this.palette ?? {}, made, { dark, background, ink: value("--ink"), text });
    this.scene.palette = this.second.palette = this.palette;
  }

  get scenes() { return this.state.beside ? [this.scene, this.second] : [this.scene]; }

  // Only what an address of the view says: those of sections have no "=".
  fromAddress() {
    const { hash } = location;
    if (hash && !hash.includes("=")) { this.refresh(); return; }
    this.state.read(hash, this.scene.camera);
    for (const scene of this.scenes) Object.assign(scene, scene.aim); // no way there is shown
    this.refresh(false);
    if (hash) this.section.scrollIntoView();
  }

  set(changes) {
    Object.assign(this.state, changes);
    this.refresh();
  }

  choose(image, region) {
    this.set({ image, region });
  }

  // Something moved: both pictures follow, coarsely for as long as it goes on.
  stir() { for (const scene of this.scenes) scene.stir(); }

  refresh(note = true) {
    const { data, state, scene } = this;
    this.find("stage-b").hidden = !state.beside;
    this.find("stages").classList.toggle("pair", Boolean(state.beside));
    for (const each of this.scenes) {
      each.marked.counts = markRegions(data, state, each.side.now, this.palette, each.marked);
      markSamples(data, state, each.side.says, this.palette, each.markedSamples);
      each.request();
    }
    this.tell();
    if (!this.lists) return;
    this.follow();
    this.find("picked").hidden = state.image === null;
    this.find("found").hidden = state.image !== null;
    if (state.image !== null) this.inspector.show();
    this.lists.show(scene.marked);
    if (note) this.note();
  }

  // The address of this state of the view, a moment after the last change.
  note() {
    clearTimeout(this.noting);
    this.noting = setTimeout(() => {
      try {
        history.replaceState(null, "", this.state.fragment(this.scene.camera) || `${location.pathname}${location.search}`);
      } catch { /* in a frame without an address */ }
    }, 200);
  }

  tell() {
    const { data, state, scene } = this, { images, regions, points, reliable } = scene.marked.counts;
    const right = (some, of) => (of ? `${thousands(some)} of them for the right category (${percent(some / of, 1)})` : "none for the right category");
    const ratio = right(reliable, points), both = paired(data, state);
    const tau = data.taus[state.tau], of = state.who === "held" ? data.heldOut : data.total;
    this.find("counts").textContent = `${data.layers[state.l]}, ${data.checkpoints[state.e].label}: `
      + `${thousands(points)} of ${plural(regions, "region")} are knowledge points at tau ${Number(tau.toFixed(3))}, ${ratio}. `
      + `${thousands(images)} of ${thousands(of)} ${state.who === "held" ? "held-out images" : "images"} shown.`
      + (state.beside ? ` At its side, ${this.second.side.label}: ${thousands(this.second.marked.counts.points)} points, ${right(this.second.marked.counts.reliable, this.second.marked.counts.points)}.` : "")
      + (both && both.size < data.shown ? ` Only images known in both: ${thousands(both.size)}${state.beside.startsWith("x") && this.second.side.says ? " that the attack led astray" : ""}.` : "")
      + (data.dim > 3 ? ` Drawn are the three leading of ${data.dim} coordinates.` : "");
    this.find("e-value").textContent = data.checkpoints[state.e].label;
    this.find("l-value").textContent = data.layers[state.l];
    this.find("tau-value").textContent = String(Number(tau.toFixed(3)));
  }

  // Controls as the state has them.
  follow() {
    const { state, data } = this;
    for (const name of ["e", "l", "tau", "beside", ...Object.keys(CHOICES)]) this.find(name).value = state[name];
    this.find("name-a").hidden = !state.beside;
    if (state.beside) {
      this.find("name-a").textContent = this.scene.side.label;
      this.find("name-b").textContent = this.second.side.label;
    }
    this.find("select").setAttribute("aria-pressed", String(Boolean(this.selecting)));
    this.find("chosen").hidden = state.chosen === null;
    if (state.chosen) this.find("chosen").textContent = `Only the ${plural(state.chosen.reduce((a, b) => a + b, 0), "selected region")} ×`;
    this.find("ellipsoids").checked = state.ellipsoids;
    this.find("e").setAttribute("aria-valuetext", data.checkpoints[state.e].label);
    this.find("l").setAttribute("aria-valuetext", data.layers[state.l]);
    this.find("tau").setAttribute("aria-valuetext", this.find("tau-value").textContent);
    this.find("cell").hidden = state.cell === null;
    if (state.cell) this.find("cell").textContent = `Only ${data.categories[state.cell.y]} taken for ${data.categories[state.cell.says]} ×`;
    this.find("legend").querySelectorAll("button[data-category]").forEach((button) => {
      button.setAttribute("aria-pressed", String(!state.hidden.includes(Number(button.dataset.category))));
      button.firstChild.style.background = css(this.palette.category[Number(button.dataset.category)]);
    });
    const few = state.color === "confidence" || state.color === "strength" || state.color === "w";
    this.find("scale").hidden = !few;
    if (few) this.find("scale").style.setProperty("--ramp", `linear-gradient(90deg, ${css(this.palette.ramp[0])}, ${css(this.palette.ramp[255])})`);
  }

  controls() {
    const { data, state, scene } = this, range = (name, most) => Object.assign(this.find(name), { max: most, disabled: most === 0 });
    range("e", data.checkpoints.length - 1);
    range("l", data.layers.length - 1);
    range("tau", data.taus.length - 1);
    if (data.dim < 3) this.find("layout").querySelector("[value=map]").remove();
    for (const name of ["e", "l", "tau"]) this.find(name).addEventListener("input", (event) => this.set({ [name]: Number(event.target.value) }));
    for (const name of Object.keys(CHOICES)) this.find(name).addEventListener("change", (event) => this.chosen(name, event.target.value));
    this.find("ellipsoids").addEventListener("change", (event) => this.set({ ellipsoids: event.target.checked }));
    this.find("play").addEventListener("click", () => this.play());
    this.find("play").disabled = data.checkpoints.length < 2;
    this.find("reset").addEventListener("click", () => {
      scene.camera.lie("space");
      scene.camera.reset();
      this.set(structuredClone(state.usual));
    });
    this.find("cell").addEventListener("click", () => this.set({ cell: null }));
    this.find("chosen").addEventListener("click", () => this.set({ chosen: null }));
    this.find("select").addEventListener("click", () => this.select(!this.selecting));
    this.find("beside").append(...besides(data).map(([value, textContent]) => el("option", { value, textContent })));
    this.find("beside").disabled = this.find("beside").length < 2;
    this.find("beside").addEventListener("change", (event) => this.besideOf(event.target.value));
    this.legend();
    this.searching();
    for (const each of [scene, this.second]) {
      listenTo(each, {
        onPick: (x, y) => { const found = each.pick(x, y); this.choose(found?.image ?? null, found?.region ?? null); },
        onHover: (x, y) => this.hover(each, x, y),
        onMove: () => { this.stir(); this.note(); },
        onKey: (key) => this.key(key),
        selecting: () => this.selecting,
        onLasso: (corners) => this.chooseWithin(each, corners),
      });
    }
    for (const button of document.querySelectorAll("[data-matrix]")) {
      button.addEventListener("click", () => { this.lists.matrixOf = button.dataset.matrix; this.lists.show(scene.marked); });
    }
    this.lists.part("table").addEventListener("toggle", () => this.lists.show(scene.marked));
    this.lists.root.querySelector("[data-view=csv]").addEventListener("click", () => this.save());
  }

  chosen(name, value) {
    if (name === "layout") {
      this.scene.camera.lie(value);
      this.scene.camera.reset();
    }
    // w is known of images that regions were learned on alone, which no fit held out.
    this.set(name === "color" && value === "w" && this.state.who === "held" ? { color: value, who: "all" } : { [name]: value });
  }

  // A state of an experiment is seen beside the checkpoint that it was made of.
  besideOf(beside) {
    const { data } = this, of = beside.startsWith("x") ? { e: data.beside[Number(beside.slice(1))].of } : {};
    this.set({ beside, ...of });
  }

  select(on) {
    this.selecting = on;
    this.find("stages").classList.toggle("selecting", on);
    this.follow();
  }

  // What a lasso holds is shown alone, and stands in the table.
  chooseWithin(scene, corners) {
    const chosen = scene.within(corners);
    this.select(false);
    if (!chosen.some(Boolean)) return this.stir();
    this.lists.part("table").open = true;
    return this.set({ chosen });
  }

  legend() {
    const { data, state } = this, all = data.categories.map((_, y) => y);
    const only = (y) => this.set({ hidden: state.hidden.length === all.length - 1 && !state.hidden.includes(y) ? [] : all.filter((x) => x !== y) });
    this.find("legend").replaceChildren(
      ...data.categories.map((name, y) => el("button", {
        type: "button", "data-category": y, title: "Click: show or hide. Double click, or Shift: only this one.",
        on: {
          click: (event) => {
            if (event.shiftKey) return only(y);
            return this.set({ hidden: state.hidden.includes(y) ? state.hidden.filter((x) => x !== y) : [...state.hidden, y].sort((a, b) => a - b) });
          },
          dblclick: () => only(y),
        },
      }, el("span", { className: "swatch" }), el("span", { className: "legend-name", textContent: ` ${name}` }))),
      el("button", { type: "button", className: "plain", textContent: "all", on: { click: () => this.set({ hidden: [] }) } }),
      el("button", { type: "button", className: "plain", textContent: "none", on: { click: () => this.set({ hidden: all }) } }));
  }

  searching() {
    const { data } = this, field = this.find("search");
    field.addEventListener("input", () => {
      const words = field.value.trim().toLowerCase();
      const hit = words && (data.images.find((x) => x.name.toLowerCase() === words) ?? data.images.find((x) => x.name.toLowerCase().includes(words)));
      this.find("search-note").textContent = words && !hit ? "No image shown has this in its name." : "";
      if (hit) this.choose(hit.index, null);
    });
  }

  hover(scene, x, y) {
    this.hovering = [scene, x, y];
    if (this.hoverWaits) return;
    this.hoverWaits = true;
    requestAnimationFrame(() => {
      this.hoverWaits = false;
      const { data } = this, [scene, x, y] = this.hovering, found = scene.pick(x, y), label = scene.stage.querySelector(".hover");
      for (const each of this.scenes) each.hover = found;
      label.hidden = !found;
      if (found) {
        const { name, y: own } = data.images[found.image], i = found.image * data.regions + found.region;
        const says = found.region === null ? scene.side.says[found.image] : scene.side.now.category[i];
        label.textContent = `${name}: ${data.categories[own]}; says ${data.categories[says]}`;
        label.style.left = `${Math.max(0, Math.min(x + 12, scene.width - 160))}px`;
        label.style.top = `${y + 14}px`;
      }
      for (const each of this.scenes) each.drawFront();
    });
  }

  key(key) {
    const { state, data } = this, clamp = (x, n) => Math.min(n - 1, Math.max(0, x));
    const steps = { "[": { e: clamp(state.e - 1, data.checkpoints.length) }, "]": { e: clamp(state.e + 1, data.checkpoints.length) },
      ",": { l: clamp(state.l - 1, data.layers.length) }, ".": { l: clamp(state.l + 1, data.layers.length) } };
    if (steps[key]) this.set(steps[key]);
    else if (key === "n" || key === "p") this.step(key === "n" ? 1 : -1);
    else if (key === "s") this.select(!this.selecting);
    else if (key === "Escape" && this.selecting) this.select(false);
    else if (key === "Escape") this.choose(null, null);
    else if (key === " ") this.play();
    else return false;
    return true;
  }

  // The next region that is shown, or the one before.
  step(by) {
    const { state, data, scene } = this, { kinds } = scene.marked, n = data.points;
    let i = state.image === null ? -1 : state.image * data.regions + (state.region ?? (by > 0 ? -1 : 0));
    for (let tried = 0; tried < n; tried++) {
      i = (i + by + 2 * n) % n;
      if (kinds[i]) return this.choose(Math.floor(i / data.regions), i % data.regions);
    }
    return undefined;
  }

  play() {
    const { state, data } = this, last = data.checkpoints.length - 1, button = this.find("play");
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = 0;
    } else {
      if (state.e === last) {
        this.scene.e = 0;
        this.set({ e: 0 });
      }
      this.playing = setInterval(() => {
        if (this.scene.moving) return;
        if (state.e === last) this.play();
        else this.set({ e: state.e + 1 });
      }, 700);
    }
    button.textContent = this.playing ? "Pause" : "Play";
  }

  save() {
    const file = new Blob([this.lists.csv(this.scene.marked)], { type: "text/csv" });
    const link = el("a", { href: URL.createObjectURL(file), download: "regions.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

async function openView() {
  const section = document.getElementById("view"), source = document.getElementById("view-data");
  if (!section || !source) return;
  await new Promise((go) => requestAnimationFrame(() => setTimeout(go))); // the page is seen first
  try {
    const view = new View(section, new RunData(JSON.parse(source.textContent)));
    globalThis.view = view; // for the console, and for tests
    await view.start();
    view.ready = true;
  } catch (error) {
    section.querySelector("[data-view=failed]").hidden = false;
    throw error;
  }
}

openView();
