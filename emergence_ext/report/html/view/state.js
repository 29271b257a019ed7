// What is looked at, and how: one object, which the page's address holds behind the # and brings back.

const CHOICES = {
  layout: ["space", "height", "map"],
  what: ["regions", "samples", "both"],
  color: ["says", "true", "confidence", "strength", "w"],
  only: ["all", "points", "reliable", "other"],
  who: ["held", "all", "fitted", "misread"],
};

class State {
  constructor(data) {
    this.data = data;
    this.usual = {
      e: data.checkpoints.length - 1, l: data.layers.length - 1, tau: data.tau,
      layout: "space", what: "regions", color: "says", only: "all", who: data.images.slice(0, data.shown).some((x) => x.heldOut) ? "held" : "all",
      ellipsoids: false, hidden: [], cell: null, image: null, region: null,
      beside: "", // what is seen at its side, see Beside
      chosen: null, // 1 for each region within the lasso; too much for an address
    };
    Object.assign(this, structuredClone(this.usual));
  }

  // "#e=2&tau=0.6&hide=3.4&pick=12.30&cam=0.6_0.45_1_0_0": only what is not as usual.
  fragment(camera) {
    const { data, usual } = this, parts = [];
    for (const name of ["e", "l"]) if (this[name] !== usual[name]) parts.push(`${name}=${this[name]}`);
    if (this.tau !== usual.tau) parts.push(`tau=${data.taus[this.tau]}`);
    for (const name of Object.keys(CHOICES)) if (this[name] !== usual[name]) parts.push(`${name}=${this[name]}`);
    if (this.beside) parts.push(`beside=${this.beside}`);
    if (this.ellipsoids) parts.push("ellipsoids=1");
    if (this.hidden.length) parts.push(`hide=${this.hidden.join(".")}`);
    if (this.cell) parts.push(`cell=${this.cell.kind}.${this.cell.y}.${this.cell.says}`);
    if (this.image !== null) parts.push(`pick=${this.image}${this.region === null ? "" : `.${this.region}`}`);
    const now = [camera.yaw, camera.pitch, camera.zoom, camera.x, camera.y].map((v) => Number(v.toFixed(3)));
    const start = new Camera(camera.dim, camera.reach, camera.layout);
    if ([start.yaw, start.pitch, 1, 0, 0].some((v, k) => Math.abs(v - now[k]) > 2e-3)) parts.push(`cam=${now.join("_")}`);
    return parts.length ? `#${parts.join("&")}` : "";
  }

  // What makes no sense, an old link's or a typed one's, is passed over.
  read(fragment, camera) {
    const { data } = this, given = new URLSearchParams(fragment.replace(/^#/, ""));
    const whole = (text, below) => (/^\d+$/.test(text ?? "") && Number(text) < below ? Number(text) : null);
    Object.assign(this, structuredClone(this.usual));
    this.e = whole(given.get("e"), data.checkpoints.length) ?? this.e;
    this.l = whole(given.get("l"), data.layers.length) ?? this.l;
    if (given.has("tau")) this.tau = nearestTau(data, Number(given.get("tau")));
    for (const [name, words] of Object.entries(CHOICES)) if (words.includes(given.get(name))) this[name] = given.get(name);
    if (this.layout === "map" && data.dim < 3) this.layout = "space";
    camera.lie(this.layout);
    this.ellipsoids = given.get("ellipsoids") === "1";
    if (besides(data).some(([key]) => key === given.get("beside"))) this.beside = given.get("beside");
    const C = data.categories.length;
    this.hidden = (given.get("hide") ?? "").split(".").map((x) => whole(x, C)).filter((x) => x !== null);
    const [kind, y, says] = (given.get("cell") ?? "").split(".");
    if (["images", "points"].includes(kind) && whole(y, C) !== null && whole(says, C) !== null) {
      this.cell = { kind, y: Number(y), says: Number(says) };
    }
    const [image, region] = (given.get("pick") ?? "").split(".");
    this.image = whole(image, data.images.length);
    this.region = this.image !== null && this.image < data.shown ? whole(region, data.regions) : null;
    const cam = (given.get("cam") ?? "").split("_").map(Number);
    if (cam.length === 5 && cam.every(Number.isFinite)) {
      Object.assign(camera, { x: cam[3], y: cam[4], zoom: 1, yaw: 0, pitch: camera.flat ? Math.PI / 2 : 0 });
      camera.turn(cam[0], cam[1]);
      camera.scale(cam[2]);
    } else camera.reset();
  }
}

function nearestTau(data, tau) {
  let best = data.tau;
  data.taus.forEach((value, k) => { if (Math.abs(value - tau) < Math.abs(data.taus[best] - tau)) best = k; });
  return Number.isFinite(tau) ? best : data.tau;
}
