// Points by WebGL2: each lies between up to four frames, and says in four bytes how it is drawn.

const VERTEX = `#version 300 es
layout(location = 0) in vec4 a0; layout(location = 1) in vec4 a1;
layout(location = 2) in vec4 a2; layout(location = 3) in vec4 a3;
layout(location = 4) in vec4 mark; // red, green, blue in 0..1, kind in 0..255 / 255
uniform vec4 blend; uniform mat3 rows; uniform vec3 eye; uniform vec2 focal; uniform float size, swell;
out vec3 color; flat out int kind;
void main() {
  kind = int(mark.w * 255.0 + 0.5);
  vec4 at = blend.x * a0 + blend.y * a1 + blend.z * a2 + blend.w * a3; // the last is a strength
  vec3 p = rows * at.xyz + vec3(eye.xy, 0.0);
  float large = swell > 0.0 ? clamp(at.w / swell, 0.3, 2.5) : 1.0;
  float depth = eye.z - p.z;
  color = mark.rgb;
  gl_Position = vec4(focal * p.xy, depth - eye.z * 0.02, depth);
  gl_PointSize = max(1.0, size * large * (kind == 1 ? 0.45 : 1.0) * clamp(eye.z / depth, 0.5, 3.0));
  if (kind == 0 || depth < eye.z * 0.01) gl_Position = vec4(2.0, 2.0, 2.0, 1.0); // outside
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 color; flat in int kind; uniform float dark; out vec4 pixel;
void main() {
  vec2 q = 2.0 * gl_PointCoord - 1.0;
  float from = kind == 3 ? max(abs(q.x), abs(q.y)) : length(q);
  if (from > 1.0 || (kind == 3 && from < 0.5)) discard; // another category: a hollow square
  vec3 edge = mix(color * 0.7, mix(color, vec3(1.0), 0.35), dark);
  pixel = vec4(kind == 2 && from > 0.72 ? edge : color, 1.0);
}`;

class Painter {
  // Null where there is no WebGL2.
  static on(canvas) {
    const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, preserveDrawingBuffer: true });
    return gl && new Painter(gl);
  }

  constructor(gl) {
    this.gl = gl;
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(this.program));
    this.at = (name) => gl.getUniformLocation(this.program, name);
    this.buffers = new Map(); // positions, or marks -> the same on the GPU
    gl.useProgram(this.program);
    gl.enable(gl.DEPTH_TEST);
  }

  begin(width, height) {
    const { gl } = this;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  }

  // frames: up to four, with their weights; marks: what `mark` in the shader is, bytes that may change.
  // Of many points every `step`th, at most the 31st, since a stride has 255 bytes at most; the first is number `share`.
  points(frames, weights, marks, camera, { size, swell, dark, width, height, step, share }) {
    const { gl } = this;
    for (let k = 0; k < 4; k++) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer(frames[k] ?? frames[0]));
      gl.enableVertexAttribArray(k);
      gl.vertexAttribPointer(k, 4, gl.SHORT, false, 8 * step, 8 * share);
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer(marks, true));
    gl.enableVertexAttribArray(4);
    gl.vertexAttribPointer(4, 4, gl.UNSIGNED_BYTE, true, 4 * step, 4 * share);
    gl.uniform4fv(this.at("blend"), [0, 1, 2, 3].map((k) => weights[k] ?? 0));
    const { rows } = camera; // columns first, as GLSL has it
    gl.uniformMatrix3fv(this.at("rows"), false, [0, 1, 2].flatMap((d) => rows.map((row) => row[d])));
    gl.uniform3f(this.at("eye"), camera.x, camera.y, camera.distance);
    gl.uniform2f(this.at("focal"), ...[width, height].map((side) => FIELD * Math.min(width, height) / side));
    gl.uniform1f(this.at("size"), size);
    gl.uniform1f(this.at("swell"), swell);
    gl.uniform1f(this.at("dark"), dark ? 1 : 0);
    gl.drawArrays(gl.POINTS, 0, Math.ceil((marks.length / 4 - share) / step));
  }

  buffer(owner, changes = false) {
    const { gl } = this;
    let there = this.buffers.get(owner);
    if (!there) {
      there = gl.createBuffer();
      this.buffers.set(owner, there);
      gl.bindBuffer(gl.ARRAY_BUFFER, there);
      gl.bufferData(gl.ARRAY_BUFFER, owner, changes ? gl.DYNAMIC_DRAW : gl.STATIC_DRAW);
    } else if (changes && owner.fresh) {
      gl.bindBuffer(gl.ARRAY_BUFFER, there);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, owner);
    }
    if (changes) owner.fresh = false;
    return there;
  }
}
