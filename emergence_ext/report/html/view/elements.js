// Elements made by hand: what comes from the run goes in as text, never as markup.

function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (name === "style") for (const [key, x] of Object.entries(value)) made.style.setProperty(key, x);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const percent = (x, digits = 0) => `${(100 * x).toFixed(digits)}\u00a0%`;
const signed = (x) => `${x < 0 ? "\u2212" : "+"}${Math.abs(x).toFixed(2)}`;
const thousands = (n) => n.toLocaleString("en-US");
const plural = (n, one, many = `${one}s`) => `${thousands(n)} ${n === 1 ? one : many}`;

// The sheet of pictures, and what is cut out of it.
class Pictures {
  constructor({ atlas, categories, images }) {
    Object.assign(this, { atlas, categories, images });
    this.sheet = atlas && new Image();
    if (atlas) this.sheet.src = atlas.src;
  }

  async ready() {
    try { await this.sheet?.decode(); } catch { this.atlas = this.sheet = null; }
  }

  // An image as a canvas `width` pixels wide, described in words; a square with its category where it is gone.
  draw(index, width) {
    const { atlas } = this, scale = width / (atlas?.width ?? 1);
    const height = atlas ? Math.round(atlas.height * scale) : width, ratio = Math.min(2, devicePixelRatio || 1);
    const canvas = el("canvas", { width: width * ratio, height: height * ratio, className: "picture" });
    canvas.style.aspectRatio = `${width} / ${height}`;
    canvas.style.width = `${width}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    if (atlas) {
      pen.imageSmoothingEnabled = scale < 3;
      const [column, row] = [index % atlas.columns, Math.floor(index / atlas.columns)];
      pen.drawImage(this.sheet, column * atlas.width, row * atlas.height, atlas.width, atlas.height, 0, 0, width, height);
    } else {
      pen.fillStyle = "#8888";
      pen.fillRect(0, 0, width, height);
    }
    const { name, y } = this.images[index];
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}, ${this.categories[y]}${atlas ? "" : "; its picture is not kept"}`);
    return { canvas, pen, width, height };
  }
}

// The cell of a region on a picture of some size.
function cellBox(grid, region, width, height) {
  const [rows, columns] = grid, [row, column] = [Math.floor(region / columns), region % columns];
  return [column * width / columns, row * height / rows, width / columns, height / rows];
}
