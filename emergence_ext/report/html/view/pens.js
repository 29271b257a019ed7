// Strokes and small geometry.

// The lower triangle of a covariance's root, from its own lower triangle, row by row.
function cholesky([a, b, c, d, e, f]) {
  const root = (x) => Math.sqrt(Math.max(x, 1e-12)), p = root(a), q = b / p, r = root(c - q * q);
  const s = d / p, t = (e - s * q) / r;
  return [p, q, r, s, t, root(f - s * s - t * t)];
}

// The path as a line that stands out from whatever lies behind it.
function haloed(pen, color, background, width) {
  for (const [style, wide] of [[background, width + 2], [color, width]]) {
    pen.strokeStyle = style;
    pen.lineWidth = wide;
    pen.stroke();
  }
}

// Whether a place lies within a polygon: an odd number of its sides lies to the right.
function inside(corners, [x, y]) {
  let odd = false;
  corners.forEach(([ax, ay], k) => {
    const [bx, by] = corners[(k || corners.length) - 1];
    if ((ay > y) !== (by > y) && x < ax + (y - ay) / (by - ay) * (bx - ax)) odd = !odd;
  });
  return odd;
}

function ring(pen, x, y, radius, width) {
  pen.lineWidth = width;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.stroke();
}

// A name that fits: both ends are kept, since the end often holds what tells two long names apart.
function clipped(name, limit) {
  if (name.length <= limit) return name;
  const tail = Math.floor((limit - 1) / 3);
  return `${name.slice(0, limit - 1 - tail).trimEnd()}…${name.slice(name.length - tail).trimStart()}`;
}
