// The picture: rays behind the points; ellipsoids, names and what is picked before them.

const SIZE = { regions: 5.5, samples: 9 }; // pixels across
const SPEED = 1 / 450; // checkpoints or layers in a millisecond
const MANY = 25000; // points drawn at once: of more a share, and while nothing moves the others share by share
const FEW = 3000; // at least, where a slow machine draws fewer while something moves
const LATE = 60; // milliseconds between frames, of which three in a row are too slow
const REST = 160; // milliseconds without a movement, after which it stands still
const HALF = Math.sqrt(2.366); // of a Gaussian in space lies within so many standard deviations

class Scene {
  // A second scene shares camera and layouts with the first.
  constructor(stage, data, state, side, first = null) {
    Object.assign(this, { stage, data, state, side });
    [this.back, this.middle, this.front] = stage.querySelectorAll("canvas");
    this.painter = Painter.on(this.middle);
    this.pens = [this.back, this.front].map((canvas) => canvas.getContext("2d"));
    this.flatPen = this.painter ? null : this.middle.getContext("2d");
    this.e = first ? first.e : state.e;
    this.l = state.l;
    this.hover = null;
    this.lasso = null; // corners of what is being selected
    this.marked = roomFor(data.points);
    this.markedSamples = roomFor(data.shown);
    this.camera = first?.camera ?? new Camera(data.dim, this.reachOf(data.frame(state.e, state.l)));
    this.layouts = first?.layouts ?? new Layouts(data, this.camera.reach);
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.frames = 0; // drawn so far
    this.many = MANY;
    this.late = 0;
    new ResizeObserver(() => this.request()).observe(stage);
  }

  // The strength that fills the view: nearly all regions of the finished network are weaker.
  reachOf(frame) {
    const strengths = [], step = Math.max(3, Math.floor(this.data.points / MANY));
    for (let i = 0; i < this.data.points; i += step) if (this.data.counts(i)) strengths.push(this.data.strength(frame, i));
    strengths.sort((a, b) => a - b);
    return strengths[Math.floor(0.99 * (strengths.length - 1))] || 1;
  }

  request() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame((now) => { this.waiting = false; this.step(now); });
  }

  get aim() { return { e: this.side.e, l: this.state.l }; }
  get moving() { return this.e !== this.aim.e || this.l !== this.aim.l; }

  // Of many points only the first share until nothing has moved for a moment.
  stir() {
    this.rough = true;
    clearTimeout(this.settling);
    this.settling = setTimeout(() => { this.rough = false; this.request(); }, REST);
    this.request();
  }

  // A machine that is slow while something moves draws fewer points at once from then on.
  keepPace(now) {
    const passed = now - this.before;
    this.before = this.rough || this.moving ? now : undefined;
    this.late = passed > LATE && passed < 8 * LATE ? this.late + 1 : 0;
    if (this.late < 3 || this.many <= FEW) return;
    this.many = Math.max(FEW, this.many / 2);
    this.late = 0;
  }

  step(now) {
    this.keepPace(now);
    const passed = this.still.matches ? Infinity : Math.min(60, now - (this.last ?? now)) * SPEED;
    for (const name of ["e", "l"]) {
      const left = this.aim[name] - this[name];
      this[name] = Math.abs(left) <= passed ? this.aim[name] : this[name] + Math.sign(left) * passed;
    }
    this.last = this.moving ? now : undefined;
    this.draw();
    if (this.moving) this.request();
  }

  // Up to four frames around where the sliders are on their way, with their weights.
  blend() {
    const { side, e, l } = this, found = [];
    for (const [t, p] of [[Math.floor(e), 1 - (e % 1)], [Math.ceil(e), e % 1]]) {
      for (const [k, q] of [[Math.floor(l), 1 - (l % 1)], [Math.ceil(l), l % 1]]) {
        if (p * q > 0) found.push(this.part(side.frame(t, k), p * q));
      }
    }
    return found;
  }

  blendSamples() {
    const below = Math.floor(this.e), part = this.e % 1;
    const found = [this.part(this.side.samples(below), 1 - part)];
    if (part > 0) found.push(this.part(this.side.samples(below + 1), part));
    return found;
  }

  // A frame as it is laid out, and what its integers are multiplied by: their unit, times its weight.
  part(frame, weight = 1) {
    const { xyz, unit } = this.layouts.of(frame, this.state.layout);
    return { xyz, by: weight * unit };
  }

  positionIn(blend, i, at = [0, 0, 0]) {
    at[0] = at[1] = at[2] = 0;
    for (let k = 0; k < blend.length; k++) {
      const { xyz, by } = blend[k];
      at[0] += by * xyz[4 * i];
      at[1] += by * xyz[4 * i + 1];
      at[2] += by * xyz[4 * i + 2];
    }
    return at;
  }

  // [blend, marks, kinds, size] of what is shown.
  layers() {
    const { what } = this.state, found = [];
    if (what !== "samples") found.push({ of: "regions", blend: this.blend(), ...this.marked });
    if (what !== "regions" && this.side.samples(0)) found.push({ of: "samples", blend: this.blendSamples(), ...this.markedSamples });
    return found;
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.stage, ratio = Math.min(2, devicePixelRatio || 1);
    if (!width || !height || !this.marked.counts) return;
    for (const canvas of [this.back, this.middle, this.front]) {
      if (canvas.width === Math.round(width * ratio) && canvas.height === Math.round(height * ratio)) continue;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    Object.assign(this, { width, height, ratio, lens: this.camera.lens(width, height) });
    this.drawRays(this.fresh(this.pens[0]));
    this.drawPoints();
    this.drawFront();
    this.frames += 1;
  }

  fresh(pen) {
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    pen.font = "600 13px system-ui, 'Liberation Sans', sans-serif";
    return pen;
  }

  // What lies before the points, which stay as they are.
  drawFront() {
    if (!this.lens) return; // nothing is drawn yet
    const pen = this.fresh(this.pens[1]);
    if (this.state.ellipsoids && this.state.layout === "space") this.drawEllipsoids(pen);
    this.drawPicked(pen);
    this.drawNames(pen);
    if (this.lasso) this.drawLasso(pen);
  }

  // Share 0 begins a picture.
  drawPoints(share = 0) {
    const { painter, ratio } = this;
    cancelAnimationFrame(this.going);
    if (!painter) return this.drawPointsFlat();
    if (!share) painter.begin(this.middle.width, this.middle.height);
    let shares = 1;
    for (const { of, blend, marks } of this.layers()) {
      const step = this.coarseness(marks.length / 4);
      shares = Math.max(shares, step);
      if (share < step) painter.points(blend.map(({ xyz }) => xyz), blend.map(({ by }) => by), marks, this.camera, {
        size: SIZE[of] * ratio, swell: this.swell, dark: this.palette.dark, width: this.middle.width, height: this.middle.height,
        step, share,
      });
    }
    if (share + 1 < shares && !this.rough && !this.moving) this.going = requestAnimationFrame(() => this.drawPoints(share + 1));
  }

  // Every how many-th point is drawn at once: a step that no row of regions is a multiple of.
  coarseness(points) {
    let step = Math.min(31, Math.ceil(points / this.many));
    while (step > 1 && step < 31 && this.data.grid[1] % step === 0) step += 1;
    return step;
  }

  // Without WebGL2: squares, in no order of depth.
  drawPointsFlat() {
    const pen = this.flatPen;
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    for (const { of, blend, marks, kinds } of this.layers()) {
      kinds.forEach((kind, i) => {
        if (!kind) return;
        const [x, y, depth] = this.screen(blend, i), r = this.radius(of, kind, depth, blend, i);
        pen.fillStyle = pen.strokeStyle = css([...marks.subarray(4 * i, 4 * i + 3)]);
        pen[kind === OTHER ? "strokeRect" : "fillRect"](x - r, y - r, 2 * r, 2 * r);
      });
    }
  }

  screen(blend, i) { return this.lens(this.positionIn(blend, i)); }

  // On a map the strength is the size: that which this strength is drawn with is the usual one.
  get swell() { return this.state.layout === "map" ? this.camera.reach / 2 : 0; }

  radius(of, kind, depth, blend, i) {
    const near = Math.min(3, Math.max(0.5, this.camera.distance / depth));
    const strength = this.swell && blend.reduce((sum, { xyz, by }) => sum + by * xyz[4 * i + 3], 0);
    const large = this.swell ? Math.min(2.5, Math.max(0.3, strength / this.swell)) : 1;
    return Math.max(1, SIZE[of] * large * (kind === FAINT ? 0.45 : 1) * near) / 2;
  }

  // What is under a place: of the marks that cover it the nearest to the eye, else the closest around it.
  pick(x, y) {
    let best = null;
    const place = [0, 0, 0], seen = [0, 0, 0], lens = this.camera.lens(this.width, this.height);
    for (const { of, blend, kinds } of this.layers()) {
      for (let i = 0; i < kinds.length; i++) {
        if (!kinds[i]) continue;
        const [px, py, depth] = lens(this.positionIn(blend, i, place), seen);
        if (Math.abs(px - x) > 30 || Math.abs(py - y) > 30 || depth < this.camera.distance * 0.01) continue;
        const over = Math.hypot(px - x, py - y) - this.radius(of, kinds[i], depth, blend, i);
        if (over > 8) continue;
        const rank = over <= 0.5 ? [0, depth] : [1, over];
        if (!best || rank[0] < best.rank[0] || (rank[0] === best.rank[0] && rank[1] < best.rank[1])) best = { of, i, rank };
      }
    }
    if (!best) return null;
    const R = this.data.regions;
    return best.of === "samples" ? { image: best.i, region: null } : { image: Math.floor(best.i / R), region: best.i % R };
  }

  // Of everything drawn, 1 for each region whose mark is within a polygon of this stage, or whose image's is.
  within(corners) {
    const found = new Uint8Array(this.data.points), R = this.data.regions, lens = this.camera.lens(this.width, this.height);
    for (const { of, blend, kinds } of this.layers()) {
      kinds.forEach((kind, i) => {
        if (!kind || !inside(corners, lens(this.positionIn(blend, i)))) return;
        if (of === "regions") found[i] = 1;
        else found.fill(1, i * R, (i + 1) * R);
      });
    }
    return found;
  }

  drawLasso(pen) {
    pen.beginPath();
    this.lasso.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    pen.setLineDash([5, 3]);
    haloed(pen, this.palette.ink, this.palette.background, 1.6);
    pen.setLineDash([]);
  }

  // Where a region is on the page, in pixels from the stage's corner.
  where(image, region) { return this.screen(this.blend(), image * this.data.regions + region); }

  tip(mu, length) { return this.lens(this.layouts.place(mu.map((x) => length * x), this.state.layout)); }

  drawRays(pen) {
    const { camera, data, state, palette } = this, [, , near] = camera.rows, gone = new Set(state.hidden);
    if (state.layout === "height") this.drawRound(pen, [1, 1, this.layouts.level(data.taus[state.tau])], [4, 4]);
    if (state.layout === "map") this.drawRound(pen, [Math.SQRT2, Math.SQRT1_2, 0], []);
    pen.lineWidth = data.categories.length > 40 ? 1 : 2;
    data.directions.forEach((mu, y) => {
      if (gone.has(y)) return;
      const away = near.reduce((sum, v, d) => sum + v * (mu[d] ?? 0), 0) < 0;
      const [x, top] = this.tip(mu, camera.reach);
      pen.strokeStyle = css(palette.category[y]);
      if (state.layout === "map") return ring(pen, x, top, 9, 2.5);
      pen.setLineDash(away && !camera.flat && state.layout === "space" ? [5, 5] : []);
      pen.beginPath();
      pen.moveTo(...this.tip(mu, 0).slice(0, 2));
      pen.lineTo(x, top);
      pen.stroke();
      pen.setLineDash([]);
    });
  }

  // The ring at p = tau, as in Fig. 4, and the edge of the map: half axes by the reach, and a height.
  drawRound(pen, [wide, deep, level], dash) {
    const { reach } = this.camera;
    pen.strokeStyle = this.palette.ink;
    pen.lineWidth = 1;
    pen.setLineDash(dash);
    pen.beginPath();
    for (let k = 0; k <= 64; k++) {
      const [x, y] = this.lens([wide * reach * Math.cos(k * Math.PI / 32), deep * reach * Math.sin(k * Math.PI / 32), level]);
      pen[k ? "lineTo" : "moveTo"](x, y);
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  // The names at the ends of the rays, the nearest first, none over another.
  drawNames(pen) {
    const { data, state, palette, camera } = this, gone = new Set(state.hidden), taken = [];
    const ends = data.directions
      .map((mu, y) => ({ y, at: this.tip(mu, camera.reach * 1.06) }))
      .filter(({ y }) => !gone.has(y))
      .sort((a, b) => a.at[2] - b.at[2]);
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    for (const { y, at: [x, top] } of ends) {
      const name = clipped(data.short[y], 16), wide = pen.measureText(name).width;
      const left = Math.min(Math.max(4, x < this.width / 2 ? x - wide : x), this.width - wide - 4);
      const box = [left - 3, top - 9, left + wide + 3, top + 9];
      if (taken.some((b) => box[0] < b[2] && b[0] < box[2] && box[1] < b[3] && b[1] < box[3])) continue;
      taken.push(box);
      pen.strokeStyle = palette.background;
      pen.lineWidth = 4;
      pen.strokeText(name, left, top);
      pen.fillStyle = css(palette.text[y]);
      pen.fillText(name, left, top);
    }
  }

  // What is picked: a ring, the image's other regions, and the way through checkpoints and layers.
  drawPicked(pen) {
    const { data, state, palette } = this, { image, region } = state, R = data.regions;
    pen.strokeStyle = palette.ink;
    if (this.hover && this.hover.region !== null) {
      const [x, y] = this.where(this.hover.image, this.hover.region);
      ring(pen, x, y, 7, 1.5);
    }
    if (image === null || image >= data.shown) return;
    if (paired(data, state)?.has(image) === false) return;
    if (state.what !== "regions" && this.side.samples(0)) {
      const [x, y] = this.screen(this.blendSamples(), image);
      ring(pen, x, y, 10, 2.5);
    }
    if (state.what === "samples") return;
    const blend = this.blend();
    if (region === null) {
      for (let r = 0; r < R; r++) {
        const [x, y] = this.screen(blend, image * R + r);
        ring(pen, x, y, 5, 1.2);
      }
      return;
    }
    const i = image * R + region;
    if (!state.beside) {
      this.drawWay(pen, data.checkpoints.map((_, t) => data.frame(t, state.l)), i, []);
      this.drawWay(pen, data.layers.map((_, k) => data.frame(state.e, k)), i, [2, 4]);
    }
    const [x, y] = this.screen(blend, i);
    pen.strokeStyle = palette.ink;
    ring(pen, x, y, 8, 3);
  }

  drawWay(pen, frames, i, dash) {
    const spots = frames.filter(Boolean).map((frame) => this.screen([this.part(frame)], i));
    pen.setLineDash(dash);
    pen.beginPath();
    spots.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    haloed(pen, this.palette.ink, this.palette.background, 1.6);
    pen.setLineDash([]);
    spots.forEach(([x, y], k) => {
      pen.fillStyle = this.palette.ink;
      pen.beginPath();
      pen.arc(x, y, 1.5 + 2 * (k + 1) / spots.length, 0, 7);
      pen.fill();
    });
  }

  // Half of the Gaussian of each category's regions, by three great circles.
  drawEllipsoids(pen) {
    const { data, state } = this, blend = this.blend(), keeps = imageFilter(data, state);
    const sums = data.categories.map(() => ({ n: 0, mean: [0, 0, 0], square: [0, 0, 0, 0, 0, 0] }));
    const kept = data.images.slice(0, data.shown).map(keeps), p = [0, 0, 0];
    for (let i = 0; i < data.points; i++) {
      const image = Math.floor(i / data.regions);
      if (!kept[image]) continue;
      this.positionIn(blend, i, p);
      const s = sums[data.images[image].y];
      s.n += 1;
      p.forEach((v, d) => { s.mean[d] += v; });
      [[0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2]].forEach(([a, b], k) => { s.square[k] += p[a] * p[b]; });
    }
    sums.forEach(({ n, mean, square }, y) => {
      if (n < 4) return;
      const m = mean.map((v) => v / n), c = square.map((v) => v / n);
      const L = cholesky([[0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2]].map(([a, b], k) => c[k] - m[a] * m[b]));
      for (const [a, b] of data.dim === 2 ? [[0, 1]] : [[0, 1], [1, 2], [0, 2]]) {
        pen.beginPath();
        for (let k = 0; k <= 48; k++) {
          const u = [0, 0, 0];
          u[a] = HALF * Math.cos(k * Math.PI / 24);
          u[b] = HALF * Math.sin(k * Math.PI / 24);
          const at = [m[0] + L[0] * u[0], m[1] + L[1] * u[0] + L[2] * u[1], m[2] + L[3] * u[0] + L[4] * u[1] + L[5] * u[2]];
          pen[k ? "lineTo" : "moveTo"](...this.lens(at).slice(0, 2));
        }
        haloed(pen, css(this.palette.text[y]), this.palette.background, 1.6);
      }
    });
  }
}
