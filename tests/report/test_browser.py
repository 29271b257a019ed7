"""The page in a real browser: without a network, read back from its own state."""

from __future__ import annotations

import importlib
import random
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext.figures.style import new_figure
from emergence_ext.method import shared_categories
from emergence_ext.report.beside import Experiments
from emergence_ext.report.files import FIGURES, save_figure
from emergence_ext.report.framed import Framed
from tests.report.planted import planted, planted_attack, planted_page, planted_shapley

CHROMIUM = next(
    (c for c in ("chromium", "chromium-browser", "google-chrome") if shutil.which(c)), None
)
EVIL = "<script>alert(1)</script>"
SCRIPTS = ("кошка", "猫と犬", "كلب", "शेर", EVIL, '"><img src=x onerror=alert(1)>')


PIXELS = """(() => {
  const { middle } = view.scene, copy = new OffscreenCanvas(middle.width, middle.height);
  const pen = copy.getContext("2d");
  pen.drawImage(middle, 0, 0);
  const bytes = pen.getImageData(0, 0, copy.width, copy.height).data;
  return [bytes.filter((value, k) => k % 4 === 3 && value).length, bytes.reduce((a, b) => a + b)];
})()"""
"""How many pixels of the view are painted, and the sum of all colours."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(
            executable_path=shutil.which(CHROMIUM),
            # WebGL without a GPU.
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file; at the end nothing was said on the console, and nothing was requested."""
    contexts, said, asked = [], [], []

    def visit(
        path: Path, fragment: str = "", width: int = 1280, scheme: str = "light", script: str = ""
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            offline=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        if script:
            page.add_init_script(script)
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("#view:not([aria-busy])")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:image/", "blob:"))] == []


@pytest.fixture(scope="module")
def run() -> Any:
    return planted()


@pytest.fixture(scope="module")
def path(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_page(tmp_path_factory.mktemp("browser") / "run", run)


@pytest.fixture
def page(open_page: Callable[..., Any], path: Path) -> Any:
    return open_page(path)


def state(page: Any, *names: str) -> list[Any]:
    return [page.evaluate(f"view.state.{name}") for name in names]


def counts(page: Any) -> tuple[int, int, int, int]:
    found = page.evaluate("view.scene.marked.counts")
    return tuple(found[name] for name in ("images", "regions", "points", "reliable"))  # type: ignore[return-value]


def expected(run: Any, t: int, k: int, which: torch.Tensor) -> tuple[int, int, int, int]:
    e = run.emergence
    points = e.points(t, k).subset(which)
    sums = (int(x.sum()) for x in (points.point, points.reliable))
    return int(which.sum()), int(which.sum()) * e.grid[0] * e.grid[1], *sums  # type: ignore[return-value]


def drawn(page: Any) -> None:
    """Wait until what was asked for is drawn."""
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def until(page: Any, condition: str) -> None:
    """Wait for what the page's state says; Playwright's own way evaluates, which no page allows."""
    page.evaluate(
        f"new Promise((go) => {{ const look = () => (({condition}) ? go() :"
        " requestAnimationFrame(look)); look(); })"
    )


def look_at(page: Any, name: str) -> Any:
    """Bring a list into sight, where it is made."""
    part = page.locator(f"[data-list={name}]")
    part.scroll_into_view_if_needed()
    until(page, f"view.lists.part('{name}').inSight && !view.lists.stale.has('{name}')")
    return part


def slide(page: Any, name: str, value: int) -> None:
    """Move a slider as a hand on the keyboard does."""
    slider = page.locator(f"[data-view={name}]")
    slider.focus()
    slider.press("Home")
    for _ in range(value):
        slider.press("ArrowRight")


def test_the_first_screen_says_what_was_analysed_and_shows_it(page: Any, run: Any) -> None:
    e = run.emergence
    assert page.title() == "tiny on animals"
    assert page.locator("h1").inner_text() == "tiny on animals"
    assert counts(page) == expected(run, -1, -1, e.held_out)
    assert f"{int(e.held_out.sum())} of {int(e.held_out.sum())} held-out images shown" in (
        page.locator("[data-view=counts]").inner_text()
    )
    assert page.locator(".findings li").count() >= 4
    box = page.locator("[data-view=stage]").bounding_box()
    assert box["y"] + box["height"] < 900
    assert page.evaluate(PIXELS)[0] > 500


def test_sliders_go_to_checkpoints_layers_and_thresholds(page: Any, run: Any) -> None:
    e = run.emergence
    slide(page, "e", 1)
    slide(page, "l", 0)
    assert state(page, "e", "l") == [1, 0]
    drawn(page)
    assert page.evaluate("view.scene.e") == 1
    assert page.locator("[data-view=e-value]").inner_text() == "epoch 2"
    assert counts(page) == expected(run, 1, 0, e.held_out)
    page.locator("[data-view=tau]").fill(str(page.evaluate("view.data.taus.indexOf(0.6)")))
    confident = e.points(1, 0).confidence[e.held_out] > 0.6
    assert counts(page)[2] == int(confident.sum())
    assert "at tau 0.6," in page.locator("[data-view=counts]").inner_text()
    page.get_by_role("button", name="Reset").click()
    assert state(page, "e", "l") == [2, 1]
    assert counts(page) == expected(run, -1, -1, e.held_out)


@pytest.mark.slow
def test_playing_goes_through_training_and_ends(page: Any) -> None:
    page.get_by_role("button", name="Play").click()
    assert page.get_by_role("button", name="Pause").count() == 1
    page.get_by_role("button", name="Play").wait_for(timeout=15_000)
    assert state(page, "e") == [2]


def test_filters_show_what_they_say(page: Any, run: Any) -> None:
    e = run.emergence
    legend = page.locator("[data-view=legend]")
    legend.get_by_role("button", name="dog").click()
    assert counts(page) == expected(run, -1, -1, e.held_out & (e.y != 1))
    legend.get_by_role("button", name="tabby cow").click(modifiers=["Shift"])
    assert counts(page) == expected(run, -1, -1, e.held_out & (e.y == 2))
    legend.get_by_role("button", name="none").click()
    assert counts(page)[0] == 0
    legend.get_by_role("button", name="all").click()
    page.locator("[data-view=who]").select_option("misread")
    wrong = e.z[-1].argmax(1) != e.y
    assert counts(page) == expected(run, -1, -1, wrong)
    page.locator("[data-view=who]").select_option("all")
    points = e.points()
    drawn = {
        "points": points.point,
        "reliable": points.reliable,
        "other": points.point & ~points.reliable,
        "all": torch.ones_like(points.point),
    }
    for choice, which in drawn.items():
        page.locator("[data-view=only]").select_option(choice)
        assert page.evaluate("view.scene.marked.counts.drawn") == int(which.sum()), choice
    assert "0 of" not in page.locator("[data-view=counts]").inner_text()
    for color in ("true", "confidence", "strength", "w"):
        page.locator("[data-view=color]").select_option(color)
        assert page.locator("[data-view=scale]").is_visible() == (color != "true")
    for what in ("samples", "both"):
        page.locator("[data-view=what]").select_option(what)
    page.locator("[data-view=ellipsoids]").check()
    assert state(page, "what", "ellipsoids") == ["both", True]


def test_picking_gives_the_region_under_the_cursor(page: Any) -> None:
    found = page.evaluate(
        """() => {
          const { scene, data } = view, blend = scene.blend(), wrong = [];
          const { kinds } = scene.marked;
          let seed = 7;
          const places = kinds.length;
          for (let n = 0; n < 200; n++) {
            seed = (seed * 48271) % 2147483647;
            const i = seed % places;
            if (!kinds[i]) continue;
            const [x, y, depth] = scene.screen(blend, i), hit = scene.pick(x, y);
            const j = hit.image * data.regions + hit.region;
            if (j === i) continue;
            // Another one may lie before it: nearer to the eye, and over this very place.
            const [u, v, nearer] = scene.screen(blend, j);
            const reach = scene.radius("regions", kinds[j], nearer, blend, j) + 0.5;
            if (Math.hypot(u - x, v - y) > reach || nearer > depth) wrong.push([i, j]);
          }
          return wrong;
        }"""
    )
    assert found == []


def test_a_click_opens_a_region_and_keys_go_on(page: Any, run: Any) -> None:
    x, y = page.evaluate(
        "(() => { const i = view.scene.marked.kinds.findIndex((kind) => kind === 2);"
        " return view.scene.screen(view.scene.blend(), i).slice(0, 2) })()"
    )
    picked = page.evaluate(f"view.scene.pick({x}, {y})")
    stage = page.locator("[data-view=stage]")
    stage.click(position={"x": x, "y": y})
    assert state(page, "image", "region") == [picked["image"], picked["region"]]
    e = run.emergence
    inspector = page.locator("[data-view=picked]")
    name = page.evaluate(f"view.data.images[{picked['image']}].name")
    i = e.names.index(name)
    assert inspector.locator("h3").inner_text() == name
    h = e.h[-1, -1, i, picked["region"]]
    p = e.frame.posterior(h)
    bars = inspector.locator(".bars .bar-value").all_inner_texts()
    assert [float(text.split()[0]) for text in bars] == pytest.approx(
        (100 * p.sort(descending=True).values).tolist(), abs=2
    )
    strength = inspector.locator(".numbers dd").first.inner_text()
    assert float(strength) == pytest.approx(float(h.norm()), abs=0.02)
    assert inspector.locator(".way").count() == 2
    inspector.locator(".way button").first.click()
    assert state(page, "e") == [0]
    inspector.locator(".board").focus()
    before = state(page, "region")[0]
    page.keyboard.press("ArrowRight" if before % 4 < 3 else "ArrowLeft")
    assert abs(state(page, "region")[0] - before) == 1
    stage.focus()
    page.keyboard.press("n")
    assert state(page, "region")[0] is not None
    inspector.locator(".strip button").first.click()
    assert state(page, "image")[0] != picked["image"]
    stage.focus()
    page.keyboard.press("Escape")
    assert state(page, "image") == [None]
    assert page.locator(".findings").is_visible()


@pytest.mark.slow
def test_the_camera_turns_moves_and_enlarges(page: Any) -> None:
    def camera() -> list[float]:
        return page.evaluate("(({ camera: c }) => [c.yaw, c.pitch, c.zoom, c.x, c.y])(view.scene)")

    start = camera()
    stage = page.locator("[data-view=stage]")
    stage.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("+")
    turned = camera()
    assert turned[0] != start[0] and turned[2] > 1 and turned[4] != 0
    page.keyboard.press("0")
    assert camera() == start
    stage.hover()
    page.mouse.down()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40, steps=3)
    page.mouse.up()
    assert camera()[:2] != start[:2] and state(page, "image") == [None]
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    assert camera()[2] > 1


@pytest.mark.slow
def test_the_address_brings_a_state_back(
    page: Any, open_page: Callable[..., Any], path: Path
) -> None:
    page.evaluate(
        "view.set({ e: 1, l: 0, tau: 40, color: 'true', only: 'points', who: 'all', hidden: [1],"
        " image: 5, region: 3 }); view.scene.camera.turn(0.3, -0.2); view.note()"
    )
    page.wait_for_url(re.compile("#e=1.*pick=5.3&cam="))
    fragment = page.evaluate("location.hash")
    again = open_page(path, fragment)
    names = ("e", "l", "tau", "color", "only", "who", "hidden", "image", "region")
    assert state(again, *names) == state(page, *names)
    assert again.evaluate("view.scene.camera.yaw") == pytest.approx(0.9, abs=1e-3)
    assert again.locator("[data-view=only]").input_value() == "points"
    nonsense = open_page(path, "#e=99&l=-1&tau=x&hide=a.7&pick=900.1&cam=1_2&cell=q.1.1&only=<b>")
    assert state(nonsense, "e", "l", "hidden", "image") == [2, 1, [], None]


@pytest.mark.slow
def test_layouts_stand_where_they_say(page: Any, run: Any) -> None:
    e = run.emergence
    index = [e.names.index(row["name"]) for row in page.evaluate("view.data.images")]
    h = e.h[-1, -1, index].flatten(0, 1)
    y = e.y[index].repeat_interleave(e.grid[0] * e.grid[1])
    every = "Array.from({ length: view.data.points }, (_, i) => scene.positionIn(scene.blend(), i))"
    page.locator("[data-view=layout]").select_option("height")
    reach = page.evaluate("view.scene.camera.reach")
    at = torch.tensor(page.evaluate(f"(({{ scene }}) => {every})(view)"))
    truth = e.frame.posterior(h)[torch.arange(len(y)), y]
    assert torch.allclose(at[:, 2] / (1.6 * reach) + 0.5, truth, atol=0.02)
    floor = torch.tensor(page.evaluate("view.data.floor"))
    assert torch.allclose(at[:, :2], h @ floor.t(), atol=0.02)
    page.locator("[data-view=layout]").select_option("map")
    at = torch.tensor(page.evaluate(f"(({{ scene }}) => {every})(view)")) * 2 / reach
    # Within the ellipse, the upper half of the sphere above its middle.
    assert bool(((at[:, 0] / 8**0.5) ** 2 + (at[:, 1] / 2**0.5) ** 2 <= 1.01).all())
    off = h[:, 2].abs() > 0.1
    assert torch.equal(at[off, 1] > 0, h[off, 2] > 0)
    assert page.evaluate("view.scene.camera.flat")
    page.locator("[data-view=layout]").select_option("space")
    at = torch.tensor(page.evaluate(f"(({{ scene }}) => {every})(view)"))
    assert torch.allclose(at, h, atol=0.02)


@pytest.mark.slow
def test_lists_rank_and_the_matrix_filters(page: Any, run: Any) -> None:
    e = run.emergence
    wrong = int((e.z[-1].argmax(1) != e.y).sum())
    assert look_at(page, "misread").locator(".card").count() == wrong
    look_at(page, "others").locator(".card").first.click()
    image, region = state(page, "image", "region")
    kinds = page.evaluate("Array.from(view.scene.marked.kinds)")
    assert kinds[image * 12 + region] == 3
    look_at(page, "confusion")
    page.get_by_role("button", name="cat taken for dog").click()
    assert state(page, "cell") == [{"kind": "images", "y": 0, "says": 1}]
    assert counts(page)[0] == int(((e.y == 0) & (e.z[-1].argmax(1) == 1)).sum())
    page.locator("[data-view=cell]").click()
    page.get_by_role("button", name="knowledge points that are shown").click()
    look_at(page, "confusion")
    points = e.points()
    cell = page.get_by_role("button", name="dog taken for dog")
    assert int(cell.inner_text().replace(",", "")) == int(points.reliable[e.y == 1].sum())
    page.locator("[data-view=search]").fill("IMAGE_007")
    assert page.evaluate("view.data.images[view.state.image].name") == "image_007.png"
    page.locator("[data-view=search]").fill("no such")
    assert "No image shown" in page.locator("[data-view=search-note]").inner_text()


@pytest.mark.slow
def test_an_answer_shows_itself_in_the_view(page: Any, run: Any) -> None:
    answers = page.locator(".findings li")
    links = answers.locator("a")
    assert links.count() >= 4
    for k in range(links.count()):
        address = links.nth(k).get_attribute("href")
        links.nth(k).click()
        page.wait_for_timeout(300)  # until the address is what the state says
        assert page.evaluate("location.hash") in ("", address), address  # "": it is so already
        page.get_by_role("button", name="Reset").click()
        page.wait_for_timeout(300)
    text = answers.filter(has_text="Which regions are misread").inner_text()
    answers.filter(has_text="Which regions are misread").locator("a").click()
    cell = state(page, "cell")[0]
    names = [run.emergence.categories[cell[x]].replace("_", " ") for x in ("y", "says")]
    assert f"those of {' as '.join(names)}: " in text
    points = run.emergence.points().subset(run.emergence.held_out & (run.emergence.y == cell["y"]))
    there = int((points.point & (points.category == cell["says"])).sum())
    assert page.evaluate("view.scene.marked.counts.drawn") == there


@pytest.mark.slow
def test_only_lists_in_sight_are_made(page: Any) -> None:
    page.evaluate("window.scrollTo(0, 0)")
    until(page, "!view.lists.part('confusion').inSight")
    page.evaluate("view.set({ tau: 60 })")
    assert page.evaluate("view.lists.stale.has('confusion')")
    look_at(page, "confusion")
    assert page.evaluate("!view.lists.stale.has('confusion')")


@pytest.mark.slow
def test_regions_that_are_shared_and_that_moved_are_ranked(page: Any, run: Any) -> None:
    e = run.emergence
    page.locator("[data-view=who]").select_option("all")
    h = e.regions()
    p, _ = e.frame.posterior(h).sort(dim=-1, descending=True)
    shared = (shared_categories(h, e.frame, e.tau) >= 0).all(-1)
    second = torch.where(shared, p[..., 1], 0).amax(1)
    cards = look_at(page, "shared").locator(".card")
    near = ((p[..., 0] - p[..., 1]) - 0.1).abs() < 0.02  # which rounding may move
    assert abs(cards.count() - int(shared.any(1).sum())) <= int(near.any(1).sum())
    name = cards.first.get_attribute("title")
    assert float(second[e.names.index(name)]) == pytest.approx(float(second.max()), abs=0.02)
    look_at(page, "moved")
    assert page.locator("[data-list=moved-title]").inner_text().endswith("epoch 0 to epoch 4")
    far = (e.h[-1, -1] - e.h[0, -1]).norm(dim=-1).amax(1)
    named = [card.get_attribute("title") for card in page.locator("[data-list=moved] .card").all()]
    told = [float(far[e.names.index(name)]) for name in named]
    assert len(told) == len(far) and told[0] == pytest.approx(float(far.max()), abs=0.05)
    assert all(a > b - 0.05 for a, b in pairwise(told))
    page.locator("[data-view=beside]").select_option("e1")
    look_at(page, "moved")
    assert page.locator("[data-list=moved-title]").inner_text().endswith("epoch 2 to epoch 4")


@pytest.mark.slow
def test_two_states_stand_side_by_side_with_one_camera(
    page: Any, open_page: Callable[..., Any], path: Path, run: Any
) -> None:
    e = run.emergence
    assert not page.locator("[data-view=stage-b]").is_visible()
    page.locator("[data-view=beside]").select_option("e0")
    second = page.locator("[data-view=stage-b]")
    assert second.is_visible() and page.locator("[data-view=name-b]").inner_text() == "epoch 0"
    found = page.evaluate("view.second.marked.counts")
    assert (found["images"], found["regions"], found["points"], found["reliable"]) == expected(
        run, 0, -1, e.held_out
    )
    drawn(page)
    index = [e.names.index(row["name"]) for row in page.evaluate("view.data.images")]
    every = "Array.from({ length: view.data.points }, (_, i) => scene.positionIn(scene.blend(), i))"
    at = torch.tensor(page.evaluate(f"(({{ second: scene }}) => {every})(view)"))
    assert torch.allclose(at, e.h[0, -1, index].flatten(0, 1), atol=0.02)
    second.focus()
    before = page.evaluate("view.scene.camera.yaw")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("view.scene.camera.yaw") != before
    assert page.evaluate("view.second.camera === view.scene.camera")
    drawn(page)
    x, y = page.evaluate(
        """(() => {
          // A mark that nothing else covers, wherever within a pixel the click lands.
          const { second: scene, data } = view, { kinds } = scene.marked;
          const around = [-1, 0, 1].flatMap((a) => [-1, 0, 1].map((b) => [a, b]));
          const places = Array.from(kinds, (_, i) => scene.screen(scene.blend(), i));
          return places.find(([x, y], i) => kinds[i] === 2 && around.every(([a, b]) => {
            const hit = scene.pick(x + a, y + b);
            return hit && hit.image * data.regions + hit.region === i;
          })).slice(0, 2);
        })()"""
    )
    picked = page.evaluate(f"view.second.pick({x}, {y})")
    second.click(position={"x": x, "y": y})
    assert state(page, "image", "region") == [picked["image"], picked["region"]]
    assert "At its side, epoch 0" in page.locator("[data-view=picked]").inner_text()
    page.wait_for_url(re.compile("beside=e0"))
    again = open_page(path, page.evaluate("location.hash"))
    assert state(again, "beside") == ["e0"]
    page.get_by_role("button", name="Reset").click()
    assert not second.is_visible()


@pytest.mark.slow
def test_attacked_images_stand_beside_the_clean_ones_and_shapley_values_are_told(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    run = planted()
    attack, shapley = planted_attack(run), planted_shapley(run)
    page = open_page(planted_page(tmp_path / "run", run, Experiments(attack, shapley)))
    page.locator("[data-view=beside]").select_option("attacked, eps 0.1")
    assert counts(page)[0] == len(attack.astray)
    assert page.evaluate("view.second.marked.counts.images") == len(attack.astray)
    assert "that the attack led astray" in page.locator("[data-view=counts]").inner_text()
    look_at(page, "moved")
    title = page.locator("[data-list=moved-title]").inner_text()
    assert title.endswith("epoch 4 to attacked, eps 0.1")
    page.locator("[data-list=moved] .card").first.click()
    told = page.locator("[data-view=picked]").inner_text()
    assert "At its side, attacked, eps 0.1, it says " in told
    assert "At its side, attacked, eps 0.1: " in told
    page.locator("[data-view=what]").select_option("samples")
    assert page.evaluate("view.second.layers().length") == 1
    page.get_by_role("button", name="Reset").click()
    places = page.evaluate("view.data.shapley.images")
    page.evaluate(f"view.choose({places[0]}, 3)")
    name = page.evaluate(f"view.data.images[{places[0]}].name")
    values = shapley.values[0, shapley.names.index(name)]
    rank = 1 + int((values > values[3]).sum())
    text = page.locator("[data-view=picked] .numbers").inner_text()
    assert f"number {rank} of 12" in text
    assert f"{abs(float(values[3])):.1f}" in text


@pytest.mark.slow
def test_a_lasso_shows_what_it_holds_alone_and_in_the_table(page: Any) -> None:
    stage = page.locator("[data-view=stage]")
    page.get_by_role("button", name="Select by lasso").click()
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(100)
    box = stage.bounding_box()
    corners = [(0.35, 0.2), (0.7, 0.2), (0.7, 0.75), (0.35, 0.75)]
    corners = [(x * box["width"], y * box["height"]) for x, y in corners]
    before = page.evaluate("view.scene.camera.yaw")
    within = page.evaluate(
        """([[left, top], , [right, bottom]]) => {
          const { scene } = view, blend = scene.blend();
          return Array.from(scene.marked.kinds, (kind, i) => {
            const [x, y] = scene.screen(blend, i);
            return kind && x > left && x < right && y > top && y < bottom ? i : -1;
          }).filter((i) => i >= 0);
        }""",
        corners,
    )
    page.mouse.move(box["x"] + corners[0][0], box["y"] + corners[0][1])
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    assert page.evaluate("view.scene.camera.yaw") == before
    chosen = page.evaluate("[...view.state.chosen].flatMap((one, i) => (one ? [i] : []))")
    assert len(within) > 10 and len(set(chosen) ^ set(within)) <= 2  # at the border
    assert counts(page)[1] == len(chosen)
    look_at(page, "table")
    assert page.locator("[data-list=rows] tbody tr").count() == len(chosen)
    slide(page, "e", 0)  # they are followed through training
    assert counts(page)[1] == len(chosen)
    page.get_by_role("button", name="selected regions").click()
    assert state(page, "chosen") == [None] and counts(page)[1] > len(chosen)
    stage.focus()
    page.keyboard.press("s")
    assert page.evaluate("view.selecting") is True
    page.keyboard.press("Escape")
    assert page.evaluate("view.selecting") is False


def test_late_frames_are_of_fewer_points(page: Any) -> None:
    paced = """
    (times) => {
      const { scene } = view;
      Object.assign(scene, { many: 25000, late: 0, before: undefined, rough: true });
      for (const now of times) scene.keepPace(now);
      scene.rough = false;
      return scene.many;
    }
    """
    assert page.evaluate(paced, [30 * k for k in range(40)]) == 25000
    assert page.evaluate(paced, [0, 100, 130, 230, 260]) == 25000  # now and then is no pace
    assert page.evaluate(paced, [1000 * k for k in range(9)]) == 25000  # it stood still
    assert page.evaluate(paced, [100 * k for k in range(4)]) == 12500
    assert page.evaluate(paced, [100 * k for k in range(90)]) == 3000


@pytest.mark.slow
def test_many_points_are_drawn_share_by_share_and_only_one_while_they_move(page: Any) -> None:
    first = "view.scene.many = 25000; [1e3, 3e4, 1e6].map((n) => view.scene.coarseness(n))"
    steps = page.evaluate(first)
    assert steps[0] == 1 and 1 < steps[1] <= 31 and steps[2] == 31
    before = page.evaluate(PIXELS)
    page.evaluate(
        """(() => {
          const { scene } = view, { painter } = scene, draw = painter.points.bind(painter);
          window.shares = [];
          scene.coarseness = () => 5;
          painter.points = (...given) => { shares.push(given[4].share); draw(...given); };
          view.stir();
          clearTimeout(scene.settling); // it goes on moving
        })()"""
    )
    drawn(page)
    assert set(page.evaluate("shares")) == {0}
    page.evaluate("view.scene.rough = false; view.scene.request()")
    until(page, "shares.at(-1) === 4")
    assert page.evaluate("shares").count(1) == 1
    drawn(page)
    assert page.evaluate(PIXELS) == before  # share by share it is the same picture
    page.mouse.move(*[page.locator("[data-view=stage]").bounding_box()[x] + 99 for x in "xy"])
    page.wait_for_timeout(100)
    assert page.evaluate("shares").count(1) == 1  # to point somewhere draws no points


@pytest.mark.slow
def test_the_table_is_saved_as_csv(open_page: Callable[..., Any], tmp_path: Path) -> None:
    run = planted(names=("=cmd|' /C calc'!A0", 'a,"b".png'))
    page = open_page(planted_page(tmp_path / "run", run))
    page.get_by_text("Table of the regions that are shown").click()
    page.locator("[data-list=rows] tbody tr").first.wait_for()
    assert page.locator("[data-list=rows] tbody tr").count() == counts(page)[1]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    rows = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("image,category,row,column,says,p,|h|,w,knowledge point,reliable,")
    assert len(rows) == 1 + counts(page)[1]
    assert sum(row.startswith("'=cmd") for row in rows) == 12
    assert sum(row.startswith('"a,""b"".png"') for row in rows) == 12


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_names_in_any_script_are_text(
    open_page: Callable[..., Any], tmp_path: Path, scheme: str
) -> None:
    run = planted(categories=SCRIPTS, names=(EVIL, "../x.png", "\udcff.png"), images=36)
    page = open_page(planted_page(tmp_path / "run", run), scheme=scheme)
    legend = page.locator("[data-view=legend]").inner_text()
    assert all(name in legend for name in SCRIPTS)
    page.evaluate("view.choose(view.data.images.findIndex((x) => x.name.includes('script')), 1)")
    assert page.locator("[data-view=picked] h3").inner_text() == EVIL
    assert page.evaluate("document.querySelectorAll('script:not([id])').length") == 1
    page.get_by_text("Table of the regions that are shown").click()


@pytest.mark.slow
def test_two_and_two_hundred_categories(open_page: Callable[..., Any], tmp_path: Path) -> None:
    two = open_page(planted_page(tmp_path / "two", planted(categories=("a", "b"), dim=2)))
    assert two.evaluate("view.scene.camera.pitch") == pytest.approx(torch.pi / 2)
    many = planted(categories=tuple(f"kind {c}" for c in range(200)), images=600, grid=(1, 2))
    page = open_page(planted_page(tmp_path / "many", many))
    assert page.locator("[data-view=legend] [data-category]").count() == 200
    assert look_at(page, "confusion").locator("li").count() == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"pictures": False},
        {"checkpoints": 1, "layers": 1},
        {"dim": 5},
        {"categories": tuple(f"c{i}" for i in range(300)), "images": 600, "grid": (1, 1)},
    ],
    ids=["no pictures", "one checkpoint and layer", "five dimensions", "300 categories"],
)
def test_every_kind_of_run_has_its_view(
    open_page: Callable[..., Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = planted(**changes)
    page = open_page(planted_page(tmp_path / "run", run))
    e = run.emergence
    assert page.evaluate("view.data.dim") == e.frame.dim
    page.evaluate("view.choose(1, 0)")
    name = page.evaluate("view.data.images[1].name")
    p = e.frame.posterior(e.h[-1, -1, e.names.index(name), 0])
    said = page.evaluate(
        "view.data.posterior(view.data.frame(view.state.e, view.state.l), view.data.regions)"
    )
    assert said == pytest.approx(p.tolist(), abs=0.02)


@pytest.mark.slow
def test_without_webgl2_points_are_drawn_all_the_same(
    open_page: Callable[..., Any], path: Path
) -> None:
    page = open_page(
        path,
        script="const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " return kind === 'webgl2' ? null : get.call(this, kind, ...rest); }",
    )
    assert page.locator("[data-view=flat]").is_visible()
    assert page.evaluate(
        "view.scene.flatPen.getImageData(0, 0, view.scene.middle.width, view.scene.middle.height)"
        ".data.some((v) => v)"
    )


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        pytest.param(1280, "light", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(360, "light", marks=pytest.mark.slow),
        (360, "dark"),
    ],
)
def test_the_page_is_accessible_and_fits_its_width(
    open_page: Callable[..., Any], path: Path, width: int, scheme: str
) -> None:
    page = open_page(path, "#pick=2.4", width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    try:
        axe = importlib.import_module("axe_playwright_python.sync_playwright").Axe()
    except ImportError:
        pytest.skip("axe is not installed")
    found = axe.run(page).response["violations"]
    serious = [
        (each["id"], node["html"][:120], re.sub(r"\s+", " ", node["failureSummary"])[:200])
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
    assert serious == []


@pytest.mark.slow
def test_drawings_follow_dark_mode_and_pictures_keep_their_colours(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / FIGURES).mkdir(parents=True)
    for name, values in {"drawn": torch.ones(4, 4), "picture": torch.ones(4, 4, 3)}.items():
        figure = new_figure(1, 1)
        figure.add_subplot().imshow(values.numpy())
        save_figure(figure, folder / FIGURES / name)
    planted_page(folder, planted())
    page = open_page(folder / "report.html", scheme="dark")
    style = "(image) => getComputedStyle(image).filter"
    assert page.get_by_role("img", name="drawn").evaluate(style).startswith("invert(1)")
    assert page.get_by_role("img", name="picture").evaluate(style) == "none"
    page.set_viewport_size({"width": 360, "height": 740})
    frame = page.locator(".paper").first
    room = "(frame) => frame.scrollWidth - frame.clientWidth"
    assert frame.evaluate(room) == 0  # it is whole
    page.get_by_role("button", name="Enlarge").first.click()
    assert frame.evaluate(room) > 300
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(media="print")
    assert page.get_by_role("img", name="drawn").evaluate(style) == "none"


@pytest.mark.slow
def test_random_places_of_the_address_never_break_it(
    open_page: Callable[..., Any], path: Path
) -> None:
    page = open_page(path)
    rng = random.Random(0)
    words = ["e", "l", "tau", "hide", "pick", "cam", "cell", "only", "who", "color", "what"]
    for _ in range(60):
        parts = [
            f"{rng.choice(words)}={rng.choice(['1', '-1', 'x', '2.1', '9_9', '%', ''])}"
            for _ in range(4)
        ]
        page.evaluate("(hash) => view.state.read(hash, view.scene.camera)", "#" + "&".join(parts))
        page.evaluate("view.refresh(false)")


@pytest.mark.slow
def test_a_notebook_shows_the_page_in_a_frame(browser: Any, path: Path, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><title>n</title>{Framed(path)._repr_html_()}")
    said: list[str] = []
    page = browser.new_page(offline=True)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(notebook.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("#view:not([aria-busy])").wait_for()
    frame.locator("[data-view=legend]").get_by_role("button", name="dog").click()
    assert frame.locator("[data-view=counts]").inner_text().endswith("held-out images shown.")
    page.close()
    assert said == []
