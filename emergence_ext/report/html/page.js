"use strict";
// The page is whole without this script; it adds sorting, enlarging, and a link to save each picture.
for (const link of document.querySelectorAll("a[data-picture]")) {
  // The link reuses the picture on the page: a second copy would double the size of the file.
  const picture = document.getElementById(link.dataset.picture);
  link.href = picture.src;
  link.hidden = false;
  link.addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = picture.naturalWidth;
    canvas.height = picture.naturalHeight;
    canvas.getContext("2d").drawImage(picture, 0, 0);
    link.href = canvas.toDataURL("image/png"); // which every program reads
  });
}

// On a narrow screen a figure is shown whole; enlarged it can be read, and moved within its frame.
for (const button of document.querySelectorAll("button[data-enlarge]")) {
  const paper = document.getElementById(button.dataset.enlarge).parentElement;
  button.hidden = false;
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(paper.classList.toggle("large")));
  });
}

const words = new Intl.Collator(undefined, { numeric: true });

function compare(a, b) {
  const left = a.dataset.n, right = b.dataset.n;
  if (left !== undefined && right !== undefined) return Number(left) - Number(right);
  if (left !== undefined || right !== undefined) return left !== undefined ? -1 : 1;
  return words.compare(a.textContent, b.textContent);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].filter((row) => row.cells.length === heads.length);
      rows.sort((a, b) => compare(a.cells[column], b.cells[column]) * (down ? -1 : 1));
      body.append(...rows);
    });
  });
}

const contents = document.querySelector(".contents details");
if (window.matchMedia("(max-width: 70rem)").matches) contents.open = false;
