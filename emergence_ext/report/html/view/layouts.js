// Where marks stand: in space as they are, by height as in Fig. 4, or on a map of directions.

const FINE = 32767; // steps from 0 to a layout's largest coordinate
const HEIGHT = 1.6; // of p = 1 above p = 0, by the reach of the view

class Layouts {
  constructor(data, reach) {
    Object.assign(this, { data, reach });
    this.known = new Map(); // frame -> layout -> { xyz, unit }
  }

  of(frame, layout) {
    if (layout === "space") return { xyz: frame.xyz, unit: this.data.unit(frame) };
    const there = this.known.get(frame) ?? {};
    this.known.set(frame, there);
    return there[layout] ??= this[layout](frame);
  }

  // The floor is the plane in which the categories spread most, the height p of the true one.
  height(frame) {
    const { data, reach } = this, [first, second] = data.floor;
    return this.laid(frame, Math.max(data.unit(frame) * data.middle * 2, HEIGHT * reach), (h, i, y, out) => {
      let a = 0, b = 0;
      for (let d = 0; d < data.dim; d++) {
        a += first[d] * h[d];
        b += second[d] * h[d];
      }
      out[0] = a;
      out[1] = b;
      out[2] = this.level(data.probability(h, y));
    });
  }

  level(p) { return (p - 0.5) * HEIGHT * this.reach; }

  // Directions on a map of the whole sphere that keeps areas; the strength goes with them, as a size.
  map(frame) {
    const { reach } = this;
    return this.laid(frame, Math.max(3 * reach, this.data.unit(frame) * this.data.middle * 2), (h, i, y, out) => {
      [out[0], out[1]] = hammer(h).map((x) => x * reach / 2);
      out[3] = Math.hypot(...h);
    });
  }

  laid(frame, scale, place) {
    const { data } = this, n = frame.xyz.length / 4, each = n / data.shown, xyz = new Int16Array(4 * n);
    const h = new Array(data.dim), out = [0, 0, 0, 0], raw = data.unit(frame), unit = scale / FINE;
    for (let i = 0; i < n; i++) {
      for (let d = 0; d < data.dim; d++) h[d] = raw * (d < 3 ? frame.xyz[4 * i + d] : frame.beyond[d - 3][i]);
      place(h, i, data.images[Math.floor(i / each)].y, out);
      for (let d = 0; d < 4; d++) xyz[4 * i + d] = Math.round(out[d] / unit);
    }
    return { xyz, unit };
  }

  // Where a place of the frame's own space stands, as a ray's end: at p = 0 where height is p.
  place(h, layout) {
    const { data, reach } = this;
    if (layout === "space") return [0, 1, 2].map((d) => h[d] ?? 0);
    if (layout === "map") return Math.hypot(...h) > 0 ? [...hammer(h).map((x) => x * reach / 2), 0] : [0, 0, 0];
    return [...data.floor.map((axis) => axis.reduce((sum, x, d) => sum + x * (h[d] ?? 0), 0)), this.level(0)];
  }
}

// The projection of Hammer (1892) of a direction: equal areas, the sphere within an ellipse 4 by 2 roots of 2.
function hammer([x, y, z = 0]) {
  const length = Math.hypot(x, y, z) || 1, across = Math.hypot(x, y), cosine = across / length, half = Math.atan2(y, x) / 2;
  const root = Math.SQRT2 / Math.sqrt(1 + cosine * Math.cos(half));
  return [2 * root * cosine * Math.sin(half), root * z / length];
}
