// A camera that turns around the origin; the same few lines project here and in the shader.

const FIELD = 2.6; // focal length over half the shorter side
const LIMITS = { zoom: [0.2, 40], pitch: [-Math.PI / 2, Math.PI / 2] };

class Camera {
  constructor(dim, reach, layout = "space") {
    this.dim = dim;
    this.reach = reach; // of the strengths that fill the view
    this.lie(layout);
    this.reset();
  }

  // A map is looked at from above, and so is what has two dimensions.
  lie(layout) {
    this.layout = layout;
    this.flat = layout === "map" || (layout === "space" && this.dim === 2);
  }

  reset() {
    this.yaw = this.flat ? 0 : 0.6;
    this.pitch = this.flat ? Math.PI / 2 : this.layout === "height" ? 0.2 : 0.45;
    this.zoom = 1;
    this.x = this.y = 0;
  }

  turn(yaw, pitch) {
    this.yaw = (this.yaw + yaw) % (2 * Math.PI);
    if (!this.flat) this.pitch = Math.min(LIMITS.pitch[1], Math.max(LIMITS.pitch[0], this.pitch + pitch));
  }

  scale(factor) { this.zoom = Math.min(LIMITS.zoom[1], Math.max(LIMITS.zoom[0], this.zoom * factor)); }

  // By shares of half the view's shorter side.
  pan(x, y) {
    this.x += x * this.distance / FIELD;
    this.y += y * this.distance / FIELD;
  }

  get distance() { return 3.4 * this.reach / this.zoom; }

  // Rows: to the right, up, towards the eye.
  get rows() {
    const [sy, cy, sp, cp] = [this.yaw, this.pitch].flatMap((angle) => [Math.sin(angle), Math.cos(angle)]);
    return [[cy, sy, 0], [-sp * sy, sp * cy, cp], [cp * sy, -cp * cy, sp]];
  }

  // From a place to pixels from the upper left corner, and its distance from the eye.
  lens(width, height) {
    const [right, up, near] = this.rows, { x: panX, y: panY, distance } = this, focal = FIELD * Math.min(width, height) / 2;
    return ([px, py, pz], out = [0, 0, 0]) => {
      const x = right[0] * px + right[1] * py + right[2] * pz + panX;
      const y = up[0] * px + up[1] * py + up[2] * pz + panY;
      const depth = distance - (near[0] * px + near[1] * py + near[2] * pz);
      out[0] = width / 2 + focal * x / depth;
      out[1] = height / 2 - focal * y / depth;
      out[2] = depth;
      return out;
    };
  }
}
