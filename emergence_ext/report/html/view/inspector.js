// What is known of the picked image and region, beside the view.

class Inspector {
  constructor(root, { data, state, pictures, palette, choose, go }) {
    Object.assign(this, { root, data, state, pictures, palette, choose, go });
  }

  show() {
    const { data, state } = this, image = data.images[state.image];
    const frame = data.frame(state.e, state.l), has = image.index < data.shown;
    const parts = [this.heading(image), this.picture(image, frame, has)];
    if (!has) parts.push(el("p", { className: "note", textContent: "Its regions are not among those shown." }));
    else if (state.region === null) parts.push(this.summary(image, frame), this.neighbours(image));
    else {
      const i = image.index * data.regions + state.region;
      parts.push(this.verdict(image, frame, i), this.atItsSide(frame, i), this.bars(frame, i, image.y), this.numbers(frame, i));
      parts.push(this.way("Through checkpoints", data.checkpoints.map((c, t) => [c.label, data.frame(t, state.l), { e: t }, t === state.e]), i));
      parts.push(this.way("Through layers", data.layers.map((name, k) => [name, data.frame(state.e, k), { l: k }, k === state.l]), i));
      parts.push(this.alike(frame, i));
    }
    this.root.replaceChildren(...parts.filter(Boolean));
  }

  swatch(y) { return el("span", { className: "swatch", style: { background: css(this.palette.category[y]) } }); }

  heading(image) {
    const { data } = this, right = image.says === image.y;
    const step = (by, words, sign) => el("button", {
      type: "button", textContent: sign, "aria-label": words,
      on: { click: () => this.choose((image.index + by + data.images.length) % data.images.length, null) },
    });
    return el("div", {},
      el("div", { className: "picked-head" },
        el("h3", { textContent: image.name }),
        el("span", { className: "steps" }, step(-1, "Previous image", "‹"), step(1, "Next image", "›"),
          el("button", { type: "button", textContent: "×", "aria-label": "Close", on: { click: () => this.choose(null, null) } }))),
      el("p", {}, this.swatch(image.y), ` ${data.categories[image.y]}; the network says `,
        el("strong", { textContent: data.categories[image.says] }), ` (${percent(image.sure)})`,
        right ? "." : el("strong", { className: "wrong", textContent: ": misread." }),
        ` ${image.heldOut ? "Held out of all fits." : "Seen by the fits."}`,
        this.saidAtItsSide(image)));
  }

  saidAtItsSide(image) {
    const { data, state } = this, side = new Beside(data, state);
    const says = state.beside && image.index < data.shown && paired(data, state)?.has(image.index) !== false && side.says?.[image.index];
    return Number.isInteger(says) ? ` At its side, ${side.label}, it says ${data.categories[says]}.` : null;
  }

  // The image with its knowledge points outlined: solid for its own category, dashed for another.
  picture(image, frame, has) {
    const { data, state, palette } = this, [rows, columns] = data.grid;
    const { canvas, pen, width, height } = this.pictures.draw(image.index, 224);
    const own = image.index * data.regions;
    pen.fillStyle = "rgba(255, 255, 255, 0.65)";
    for (let r = 0; has && r < data.regions; r++) if (!data.counts(own + r)) pen.fillRect(...cellBox(data.grid, r, width, height));
    for (let r = 0; has && r < data.regions; r++) {
      if (frame.passed[own + r] <= state.tau) continue;
      const says = frame.category[own + r], [x, y, w, h] = cellBox(data.grid, r, width, height);
      outline(pen, [x + 2.5, y + 2.5, w - 5, h - 5], css(palette.category[says]), says === image.y ? [] : [4, 3], 1.6);
    }
    if (has && state.region !== null) {
      const field = state.l === data.layers.length - 1 ? data.fields[state.region] : null;
      if (field) {
        const [top, left, bottom, right] = field;
        outline(pen, [left * width, top * height, (right - left) * width, (bottom - top) * height], "#fff", [2, 3], 2);
      }
      outline(pen, cellBox(data.grid, state.region, width, height), "#fff", [], 3, "#000");
    }
    if (!has) return el("div", { className: "picked-image" }, canvas);
    const last = state.l === data.layers.length - 1 && data.fields.length;
    const words = state.region === null ? "" : ` White: this region${last ? "; dotted: what it sees" : ", which sees more than its square"}.`;
    const board = el("button", {
      type: "button", className: "board", "aria-label": `Regions of ${image.name}: click one, or choose by arrow keys`,
      on: {
        click: (event) => {
          if (!event.detail) return; // a key; it has no place
          const box = canvas.getBoundingClientRect();
          const column = Math.floor((event.clientX - box.left) / box.width * columns);
          const row = Math.floor((event.clientY - box.top) / box.height * rows);
          if (row >= 0 && row < rows && column >= 0 && column < columns) this.choose(image.index, row * columns + column);
        },
        keydown: (event) => {
          const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
          const move = moves[event.key];
          if (!move) return;
          event.preventDefault();
          const r = state.region ?? 0, from = [Math.floor(r / columns), r % columns];
          const row = Math.min(rows - 1, Math.max(0, from[0] + move[0])), column = Math.min(columns - 1, Math.max(0, from[1] + move[1]));
          this.choose(image.index, state.region === null ? 0 : row * columns + column);
          this.root.querySelector(".board").focus();
        },
      },
    }, canvas);
    return el("div", { className: "picked-image" }, board, el("p", { className: "note",
      textContent: `Outlines are knowledge points: solid for its own category, dashed for another.${words}` }));
  }

  summary(image, frame) {
    const { data, state } = this, own = image.index * data.regions, said = new Map();
    let points = 0, right = 0;
    for (let i = own; i < own + data.regions; i++) {
      if (frame.passed[i] <= state.tau) continue;
      points += 1;
      if (frame.category[i] === image.y) right += 1;
      said.set(frame.category[i], (said.get(frame.category[i]) ?? 0) + 1);
    }
    const order = [...said].sort((a, b) => b[1] - a[1]);
    return el("div", {},
      el("p", { textContent: `${points} of its ${plural(data.regionsOf(image.index), "region")} are knowledge points in ${data.layers[state.l]}, ${data.checkpoints[state.e].label}; ${right} for ${data.categories[image.y]}.` }),
      el("ul", { className: "bars" }, ...order.slice(0, 8).map(([y, n]) => this.bar(y, n / data.regionsOf(image.index), String(n), y === image.y))));
  }

  bar(y, share, words, own) {
    return el("li", { className: own ? "own" : "" },
      el("span", { className: "bar-name", textContent: this.data.short[y], title: this.data.categories[y] }),
      el("span", { className: "bar-room" }, el("span", { className: "bar", style: { width: `${100 * share}%`, background: css(this.palette.category[y]) } })),
      el("span", { className: "bar-value", textContent: words }));
  }

  verdict(image, frame, i) {
    const { data, state } = this, says = frame.category[i], columns = data.grid[1], r = i % data.regions;
    const point = frame.passed[i] > state.tau, right = says === image.y;
    const kind = !data.counts(i) ? "outside of its object, where nothing counts" : !point ? `no knowledge point at tau ${Number(data.taus[state.tau].toFixed(3))}`
      : right ? "a reliable knowledge point" : "a knowledge point for another category";
    return el("p", {}, `Region in row ${Math.floor(r / columns) + 1}, column ${r % columns + 1}, ${data.layers[state.l]}, ${data.checkpoints[state.e].label}: `,
      this.swatch(says), el("strong", { textContent: ` ${data.categories[says]}` }), `, ${kind}.`);
  }

  bars(frame, i, own) {
    const p = this.data.posterior(frame, i);
    const order = p.map((value, y) => [y, value]).sort((a, b) => b[1] - a[1]), top = order.slice(0, 6);
    if (!top.some(([y]) => y === own)) top.push(order.find(([y]) => y === own));
    return el("div", {}, el("h4", { textContent: "p(y|h)" }),
      el("ul", { className: "bars" }, ...top.map(([y, value]) => this.bar(y, value, percent(value), y === own))));
  }

  numbers(frame, i) {
    const { data, state } = this, w = data.importance(frame, i), shapley = data.shapleyValue(state.e, state.l, i);
    return el("dl", { className: "numbers" },
      el("div", {}, el("dt", { textContent: "strength |h|" }), el("dd", { textContent: data.strength(frame, i).toFixed(2) })),
      el("div", {}, el("dt", { textContent: "importance w" }),
        el("dd", { textContent: w === null ? "only of images that regions were learned on" : w.toFixed(2) })),
      shapley && el("div", {}, el("dt", { textContent: "Shapley value" }),
        el("dd", { textContent: `${signed(shapley.value)} logits, number ${shapley.rank} of ${data.regions}` })));
  }

  // What the same region says in the state beside it.
  atItsSide(frame, i) {
    const { data, state } = this, side = new Beside(data, state);
    if (!state.beside || paired(data, state)?.has(Math.floor(i / data.regions)) === false) return null;
    const there = side.now, says = there.category[i], p = data.taus[there.passed[i] - 1];
    return el("p", {}, `At its side, ${side.label}: `, this.swatch(says), el("strong", { textContent: ` ${data.categories[says]}` }),
      ` (p ${p === undefined ? "below" : "above"} ${(p ?? data.taus[0]).toFixed(2)}), |h| ${data.strength(there, i).toFixed(2)}, ${data.distance(frame, there, i).toFixed(2)} away.`);
  }

  // What the region says in each checkpoint, or layer: a row of buttons that go there.
  way(title, steps, i) {
    const { data, state } = this;
    if (steps.length < 2) return null;
    return el("div", {}, el("h4", { textContent: title }), el("div", { className: "way" }, ...steps.map(([name, frame, place, here]) => {
      const says = frame.category[i], sure = data.posterior(frame, i)[says], point = frame.passed[i] > state.tau;
      return el("button", {
        type: "button", className: `${point ? "point" : ""} ${here ? "here" : ""}`, "aria-current": here ? "step" : "false",
        title: name, on: { click: () => this.go(place) },
      }, el("span", { className: "way-name", textContent: name }), this.swatch(says),
      el("span", { textContent: `${clipped(data.short[says], 16)} ${percent(sure)}` }));
    })));
  }

  alike(frame, i) {
    const { data } = this;
    const found = data.similar(frame, i, 6);
    return el("div", {}, el("h4", { textContent: "Most similar regions of other images" }),
      el("div", { className: "strip" }, ...found.map(({ region, cosine }) => {
        const image = Math.floor(region / data.regions), r = region % data.regions;
        return card(this, image, r, `${cosine.toFixed(3)}`, 64);
      })));
  }

  // Images whose samples are nearest in direction.
  neighbours(image) {
    const { data, state } = this, frame = data.decodedSamples[state.e], g = data.coordinates(frame, image.index);
    const found = data.images.slice(0, data.shown).filter((x) => x !== image).map((x) => {
      const h = data.coordinates(frame, x.index), lengths = Math.hypot(...g) * Math.hypot(...h);
      return [x.index, lengths > 0 ? g.reduce((sum, v, d) => sum + v * h[d], 0) / lengths : -1];
    }).sort((a, b) => b[1] - a[1]).slice(0, 6);
    return el("div", {}, el("h4", { textContent: "Images that the network takes for the most alike" }),
      el("div", { className: "strip" }, ...found.map(([index, cosine]) => card(this, index, null, cosine.toFixed(3), 64))));
  }
}

// A picture with words below, that picks its image and region.
function card({ data, pictures, palette, choose }, image, region, words, width) {
  const { canvas, pen, width: w, height: h } = pictures.draw(image, width), { y, says, name } = data.images[image];
  if (region !== null) outline(pen, cellBox(data.grid, region, w, h), "#fff", [], 2, "#000");
  canvas.removeAttribute("role");
  canvas.removeAttribute("aria-label");
  canvas.setAttribute("aria-hidden", "true");
  return el("button", {
    type: "button", className: "card", title: name, "aria-label": `${name}, ${data.categories[y]}: ${words}`,
    on: { click: () => choose(image, region) },
  }, canvas, el("span", { className: "card-words" },
    el("span", { className: "swatch", style: { background: css(palette.category[y]) } }), ` ${words}`));
}

function outline(pen, [x, y, w, h], color, dash, width, around = null) {
  pen.setLineDash(dash);
  if (around) {
    pen.strokeStyle = around;
    pen.lineWidth = width + 2;
    pen.strokeRect(x, y, w, h);
  }
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.strokeRect(x, y, w, h);
  pen.setLineDash([]);
}
