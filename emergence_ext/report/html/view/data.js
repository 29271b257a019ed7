// The run as the page holds it: planes of bytes, inflated by the browser, one frame a checkpoint and layer.

const NEARLY = 0.1; // of p between two categories that a region speaks for alike (Fig. 2, 10)

async function inflated(text) {
  const plain = atob(text);
  const bytes = new Uint8Array(plain.length);
  for (let k = 0; k < plain.length; k++) bytes[k] = plain.charCodeAt(k);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class RunData {
  constructor(json) {
    Object.assign(this, json);
    this.regions = this.grid[0] * this.grid[1];
    this.points = this.shown * this.regions;
    this.middle = 2 ** (this.bits - 1);
    this.images = json.images.map(([name, y, says, heldOut, sure, entropy], index) => ({
      index, name, y, says, heldOut: heldOut === 1, sure, entropy,
    }));
    this.decoded = new Array(this.frames.length).fill(null);
    this.decodedSamples = new Array(this.samples.length).fill(null);
    for (const each of this.beside) each.known = new Set(each.images);
  }

  counts(i) { return !this.counted || this.counted[i] > 0; }
  regionsOf(image) { return this.counted ? this.counted.subarray(image * this.regions, (image + 1) * this.regions).reduce((a, b) => a + b, 0) : this.regions; }

  place(t, l) { return t * this.layers.length + l; }
  frame(t, l) { return this.decoded[this.place(t, l)]; }

  // Decode one frame now and the others behind it, so that the first picture does not wait for all.
  async decodeFirst(t, l) {
    if (this.counted) this.counted = await inflated(this.counted); // a byte a region: 0 where it does not count
    await this.decode(this.place(t, l));
    for (let k = 0; k < this.samples.length; k++) this.decodedSamples[k] = await this.decodedSample(this.samples[k]);
  }

  async decodeAll() {
    for (let k = 0; k < this.frames.length; k++) await this.decode(k);
    for (const each of this.beside) {
      each.decoded = [];
      for (const frame of each.frames) each.decoded.push(await this.decodedFrame(frame));
      each.decodedSamples = each.samples && await this.decodedSample(each.samples);
    }
    for (const layer of this.shapley?.layers ?? []) if (layer) layer.bytes = await inflated(layer.data);
  }

  async decode(k) { this.decoded[k] ??= await this.decodedFrame(this.frames[k]); }

  async decodedSample({ scale, data }) { return { scale, ...this.positions(await inflated(data), this.shown) }; }

  async decodedFrame(packed) {
    const { scale, strongest, most, data, w } = packed;
    const bytes = await inflated(data);
    const n = this.points, end = 2 * this.dim * n;
    const category = new Uint16Array(n);
    const wide = bytes.length - end >= 3 * n;
    for (let i = 0; i < n; i++) {
      category[i] = bytes[end + n + i] + (wide ? bytes[end + 2 * n + i] << 8 : 0);
    }
    packed.data = ""; // what was decoded needs no second copy
    return {
      scale, strongest, most, category, passed: bytes.slice(end, end + n),
      w: w ? await inflated(w) : null, ...this.positions(bytes, n),
    };
  }

  // The three coordinates that are drawn, side by side for the GPU, and those beyond them.
  positions(bytes, n) {
    const xyz = new Int16Array(4 * n), beyond = [];
    for (let d = 0; d < this.dim; d++) {
      const low = 2 * d * n, high = low + n;
      const extra = d < 3 ? null : new Int16Array(n);
      for (let i = 0; i < n; i++) {
        const value = bytes[low + i] + (bytes[high + i] << 8) - this.middle;
        if (extra) extra[i] = value;
        else xyz[4 * i + d] = value;
      }
      if (extra) beyond.push(extra);
    }
    return { xyz, beyond };
  }

  unit(frame) { return frame.scale / (this.middle - 1); }

  coordinates(frame, i) {
    const unit = this.unit(frame), found = [];
    for (let d = 0; d < this.dim; d++) {
      found.push(unit * (d < 3 ? frame.xyz[4 * i + d] : frame.beyond[d - 3][i]));
    }
    return found;
  }

  strength(frame, i) { return Math.hypot(...this.coordinates(frame, i)); }

  // log prior + kappa times cosine of each category (Eq. 4), into `scores`.
  score(h, scores) {
    const length = Math.hypot(...h), { step, values } = this.kappa;
    const at = Math.min(length / step, values.length - 1), below = Math.min(Math.floor(at), values.length - 2);
    const kappa = values[below] + (at - below) * (values[below + 1] - values[below]);
    for (let y = 0; y < this.directions.length; y++) {
      const mu = this.directions[y];
      let product = 0;
      for (let d = 0; d < this.dim; d++) product += mu[d] * h[d];
      scores[y] = Math.log(this.priors[y]) + (length > 0 ? kappa * product / length : 0);
    }
  }

  // p(y|h), from where the region is: a softmax.
  posterior(frame, i) {
    const scores = new Float64Array(this.directions.length);
    this.score(this.coordinates(frame, i), scores);
    const most = Math.max(...scores), powers = Array.from(scores, (s) => Math.exp(s - most));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((p) => p / total);
  }

  // That of one category alone.
  probability(h, y) {
    const scores = this.scores ??= new Float64Array(this.directions.length);
    this.score(h, scores);
    let total = 0;
    for (let k = 0; k < scores.length; k++) total += Math.exp(scores[k] - scores[y]);
    return 1 / total;
  }

  // w of a region; null where it was not learned: only the last images of those shown have one.
  importance(frame, i) {
    const first = (this.shown - this.weighed) * this.regions;
    return frame.w && i >= first ? frame.w[i - first] / 255 * frame.most : null;
  }

  // The Shapley value of a region of the finished network, in logits, and its rank in the image; null without one.
  shapleyValue(t, l, i) {
    const layer = t === this.checkpoints.length - 1 ? this.shapley?.layers[l] : null;
    const row = layer ? this.shapley.images.indexOf(Math.floor(i / this.regions)) : -1;
    if (row < 0) return null;
    const n = layer.bytes.length / 2, value = (k) => (layer.bytes[k] + (layer.bytes[n + k] << 8) - this.middle) * layer.scale / (this.middle - 1);
    const own = Array.from({ length: this.regions }, (_, r) => value(row * this.regions + r));
    const it = own[i % this.regions];
    return { value: it, rank: 1 + own.filter((x) => x > it).length };
  }

  // The second category of each region that speaks nearly as much for it, within 0.1, and its p in 255 steps; else 0.
  shared(frame) {
    if (frame.shared) return frame.shared;
    const n = this.points, second = new Uint16Array(n), share = new Uint8Array(n);
    const scores = new Float64Array(this.directions.length);
    for (let i = 0; i < n; i++) {
      this.score(this.coordinates(frame, i), scores);
      const first = frame.category[i];
      let next = -1, total = 0;
      for (let y = 0; y < scores.length; y++) {
        if (y !== first && (next < 0 || scores[y] > scores[next])) next = y;
        total += Math.exp(scores[y] - scores[first]);
      }
      const behind = next < 0 ? 0 : Math.exp(scores[next] - scores[first]);
      if (behind === 0 || (1 - behind) / total > NEARLY) continue;
      second[i] = next;
      share[i] = Math.min(255, Math.round(255 * behind / total));
    }
    return frame.shared = { second, share };
  }

  // How far a region lies from one frame to another.
  distance(a, b, i) {
    const [from, to] = [this.unit(a), this.unit(b)];
    let square = 0;
    for (let d = 0; d < this.dim; d++) {
      const [x, y] = d < 3 ? [a.xyz[4 * i + d], b.xyz[4 * i + d]] : [a.beyond[d - 3][i], b.beyond[d - 3][i]];
      square += (from * x - to * y) ** 2;
    }
    return Math.sqrt(square);
  }

  // The best match of a region in each other image, by cosine as the matching has it; the nearest first.
  similar(frame, i, count) {
    const own = Math.floor(i / this.regions), h = this.coordinates(frame, i), { dim } = this;
    const length = Math.hypot(...h), best = [], unit = this.unit(frame);
    if (length === 0) return [];
    for (let n = 0; n < this.shown; n++) {
      if (n === own) continue;
      let match = { region: -1, cosine: -2 };
      for (let j = n * this.regions; j < (n + 1) * this.regions; j++) {
        let product = 0, square = 0;
        for (let d = 0; d < dim; d++) {
          const x = unit * (d < 3 ? frame.xyz[4 * j + d] : frame.beyond[d - 3][j]);
          product += x * h[d];
          square += x * x;
        }
        if (square === 0) continue;
        const cosine = product / length / Math.sqrt(square);
        if (cosine > match.cosine) match = { region: j, cosine };
      }
      if (match.region >= 0) best.push(match);
    }
    return best.sort((a, b) => b.cosine - a.cosine).slice(0, count);
  }
}
