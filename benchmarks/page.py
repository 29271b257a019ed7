"""How large the report's page is, how quickly it moves: `python -m benchmarks.page [--millions]`.

Pages of planted runs (tests/report/planted.py) are opened in headless Chromium, whose software
rendering stands for the slowest machine. It needs Playwright's Python package and a Chromium.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch

from emergence_ext.report import view
from emergence_ext.run import Thumbnails
from tests.report.planted import planted, planted_page

TEN: Final = tuple(f"category {c}" for c in range(10))
GRID: Final = (7, 7)
# Images, checkpoints, layers: as a page of Tiny ImageNet; then one picture of many points.
USUAL: Final = {"500 images": (500, 7, 5)}
MANY: Final = {"250,000 points": (5_103, 2, 1), "1,000,000 points": (20_409, 2, 1)}

MOVING: Final = """
async () => {
  const { scene } = view, { gl } = scene.painter, pixel = new Uint8Array(4), times = [];
  const begin = performance.now();
  for (let last = begin; times.length < 60 && last < begin + 8000;) {
    scene.camera.turn(0.02, 0);
    view.stir();
    await new Promise((go) => requestAnimationFrame(go));
    // What was asked of the GPU is done once a pixel can be read.
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    times.push(performance.now() - last);
    last = performance.now();
  }
  times.sort((a, b) => a - b);
  return [0.1, 0.5].map((share) => times[Math.floor(share * times.length)]);
}
"""
WHOLE: Final = """
async () => {
  const { scene } = view, { painter } = scene, { gl } = painter;
  const draw = painter.points.bind(painter);
  let missing = scene.coarseness(view.data.points);
  painter.points = (...given) => { draw(...given); missing -= 1; };
  const begin = performance.now();
  scene.request();
  while (missing > 0) await new Promise((go) => requestAnimationFrame(go));
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  return performance.now() - begin;
}
"""
TIMES: Final = """
() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  heap: performance.memory.usedJSHeapSize,
})
"""


def page_of(folder: Path, images: int, checkpoints: int, layers: int) -> Path:
    """Write the page of a planted run of so many images, all of them shown."""
    run = planted(images=images, categories=TEN, checkpoints=checkpoints, layers=layers, grid=GRID)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(images, 3, 8, 8, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1)
    fields = torch.tensor([[0, 0, 32, 32]]).expand(GRID[0] * GRID[1], 4)
    if images <= view.IMAGES:
        run.thumbnails = Thumbnails((255 * pixels).byte(), fields)
    else:  # beyond what a page holds of a run
        run.thumbnails = None
        view.IMAGES, view.ROOM = images, 10**9  # type: ignore[misc]
    return planted_page(folder, run)


def measured(browser: Any, path: Path) -> dict[str, float]:
    """Open a page and turn its view: seconds, bytes, and milliseconds a frame."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(
        "addEventListener('DOMContentLoaded', () => new MutationObserver(() => {"
        " if (!document.querySelector('#view').ariaBusy) window.interactive ??= performance.now();"
        "}).observe(document.querySelector('#view'), { attributeFilter: ['aria-busy'] }))"
    )
    page.set_default_timeout(120_000)
    page.goto(path.as_uri())
    page.wait_for_selector("#view:not([aria-busy])")
    page.wait_for_timeout(500)
    found = page.evaluate(TIMES)
    # On a machine that has other work the tenth says more than the median.
    tenth, median = page.evaluate(MOVING)
    page.wait_for_timeout(2000)  # until nothing moves
    whole = page.evaluate(WHOLE)
    interactive = page.evaluate("window.interactive")
    points = page.evaluate("view.data.points")
    page.close()
    return {
        "points": points,
        "MB": path.stat().st_size / 1e6,
        "first paint, s": found["paint"] / 1e3,
        "interactive, s": interactive / 1e3,
        "heap, MB": found["heap"] / 1e6,
        "moving, ms a frame": median,
        "the quickest tenth of frames, ms": tenth,
        "all points after, ms": whole,
    }


def main(millions: bool) -> None:
    """Print the figures of each page."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        for name, sizes in {**USUAL, **(MANY if millions else {})}.items():
            path = page_of(Path(folder) / name, *sizes)
            browser = started.chromium.launch(
                executable_path=chromium,
                args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
            )
            figures = measured(browser, path)
            browser.close()
            print(name, *(f"{key}: {value:.3g}" for key, value in figures.items()), sep="\n  ")


if __name__ == "__main__":
    main("--millions" in sys.argv[1:])
