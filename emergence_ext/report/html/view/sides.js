// What is seen: the run as the sliders say it, and a second state beside it, with one camera.

class Side {
  constructor(data, state) { Object.assign(this, { data, state }); }
  get e() { return this.state.e; }
  get label() { return this.data.checkpoints[this.e].label; }
  get says() { return this.data.checkpoints[this.e].says; }
  frame(t, l) { return this.data.frame(t, l); }
  samples(t) { return this.data.decodedSamples[t]; }
  get now() { return this.frame(this.e, this.state.l); }
}

// `state.beside` is "e2", another checkpoint, or "x0", a state that an experiment left: attacked, or another run.
class Beside extends Side {
  get other() { return this.state.beside.startsWith("x") ? this.data.beside[Number(this.state.beside.slice(1))] : null; }
  get e() { return this.other ? this.other.of : Number(this.state.beside.slice(1)); }
  get label() { return this.other ? this.other.label : super.label; }
  get says() { return this.other ? this.other.says : super.says; }
  frame(t, l) { return this.other ? this.other.decoded[l] : super.frame(t, l); }
  samples(t) { return this.other ? this.other.decodedSamples : super.samples(t); }
}

// Key and words of every state that may stand beside.
function besides(data) {
  return [
    ...data.beside.map(({ label }, k) => [`x${k}`, label]),
    ...(data.checkpoints.length > 1 ? data.checkpoints.map(({ label }, t) => [`e${t}`, label]) : []),
  ];
}

// Indices of the images that are known on both sides; null where those are all.
function paired(data, { beside }) { return beside.startsWith("x") ? data.beside[Number(beside.slice(1))].known : null; }
