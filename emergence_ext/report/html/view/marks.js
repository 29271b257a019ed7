// What each region and sample is under the filters and tau of now: counts, and four bytes to draw it by.

const HIDDEN = 0, FAINT = 1, RIGHT = 2, OTHER = 3; // kinds; a knowledge point is one of the last two

function imageFilter(data, state) {
  const { cell, hidden, who } = state, gone = new Set(hidden), both = paired(data, state);
  return ({ index, y, says, heldOut }) => !gone.has(y) && (both === null || both.has(index))
    && (who === "all" || (who === "held" ? heldOut : who === "fitted" ? !heldOut : says !== y))
    && (cell === null || (cell.y === y && (cell.kind === "points" || cell.says === says)));
}

const roomFor = (n) => ({ kinds: new Uint8Array(n), marks: new Uint8Array(4 * n), counts: null });

function setMark(marks, i, [red, green, blue], kind) {
  marks[4 * i] = red;
  marks[4 * i + 1] = green;
  marks[4 * i + 2] = blue;
  marks[4 * i + 3] = kind;
}

// Writes kinds and marks of the regions, and how many of those images are there, points, and right ones.
function markRegions(data, state, frame, palette, { kinds, marks }) {
  kinds.fill(0);
  marks.fill(0);
  const keeps = imageFilter(data, state), { only, tau, cell, chosen } = state;
  const counts = { images: 0, regions: 0, points: 0, reliable: 0, drawn: 0 };
  const color = regionColor(data, state, frame, palette);
  for (let image = 0; image < data.shown; image++) {
    if (!keeps(data.images[image])) continue;
    const { y } = data.images[image], before = counts.regions;
    for (let i = image * data.regions; i < (image + 1) * data.regions; i++) {
      if ((chosen && !chosen[i]) || !data.counts(i)) continue;
      const point = frame.passed[i] > tau, right = frame.category[i] === y;
      const kind = point ? (right ? RIGHT : OTHER) : FAINT;
      counts.regions += 1;
      if (point) counts.points += 1;
      if (kind === RIGHT) counts.reliable += 1;
      if (only === "points" ? !point : only === "reliable" ? kind !== RIGHT : only === "other" && kind !== OTHER) continue;
      if (cell?.kind === "points" && !(point && frame.category[i] === cell.says)) continue;
      counts.drawn += 1;
      kinds[i] = kind;
      setMark(marks, i, color(i, y, kind), kind);
    }
    if (counts.regions > before) counts.images += 1;
  }
  marks.fresh = true;
  return counts;
}

// `says`: what the network says of each image; null where that is not known.
function markSamples(data, state, says, palette, { kinds, marks }) {
  kinds.fill(0);
  marks.fill(0);
  const keeps = imageFilter(data, state), { chosen } = state, R = data.regions;
  for (let i = 0; says && i < data.shown; i++) {
    const { y } = data.images[i];
    if (!keeps(data.images[i]) || (chosen && !chosen.subarray(i * R, (i + 1) * R).some(Boolean))) continue;
    kinds[i] = says[i] === y ? RIGHT : OTHER;
    setMark(marks, i, palette.category[state.color === "true" ? y : says[i]], kinds[i]);
  }
  marks.fresh = true;
}

function regionColor(data, state, frame, palette) {
  const { category, faint, ramp } = palette;
  const share = {
    confidence: (i) => frame.passed[i] / data.taus.length,
    strength: (i) => data.strength(frame, i) / frame.strongest,
    w: (i) => (frame.w && data.importance(frame, i) !== null ? data.importance(frame, i) / frame.most : null),
  }[state.color];
  if (share) return (i) => { const x = share(i); return x === null ? palette.none : ramp[Math.min(255, Math.floor(x * 256))]; };
  return (i, y, kind) => (kind === FAINT ? faint : category)[state.color === "true" ? y : frame.category[i]];
}

// Colours that stand out from the background by 3 : 1 (WCAG 2.1), as bytes.
function makePalette(data, background, dark) {
  const ground = bytesOf(background), towards = dark ? [255, 255, 255] : [0, 0, 0];
  const category = data.colors.map((color) => {
    let rgb = bytesOf(color);
    for (let k = 0; k < 20 && contrast(rgb, ground) < 3; k++) rgb = mixed(rgb, towards, 0.08);
    return rgb;
  });
  const [low, high] = dark ? [[60, 70, 95], [255, 214, 120]] : [[205, 212, 226], [150, 20, 30]];
  return {
    category,
    faint: category.map((rgb) => mixed(rgb, ground, 0.55)),
    ramp: Array.from({ length: 256 }, (_, k) => mixed(low, high, k / 255)),
    none: mixed(ground, dark ? [255, 255, 255] : [0, 0, 0], 0.2),
  };
}

const bytesOf = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const mixed = (a, b, t) => a.map((x, k) => Math.round(x + (b[k] - x) * t));
const css = (rgb) => `rgb(${rgb.join(",")})`;

function contrast(a, b) {
  const light = [a, b].map((rgb) => rgb
    .map((x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, k) => sum + x * [0.2126, 0.7152, 0.0722][k], 0) + 0.05);
  return Math.max(...light) / Math.min(...light);
}
