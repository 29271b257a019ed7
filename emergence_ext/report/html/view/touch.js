// Turn, move and enlarge the view by mouse, touch and keys; a click picks, and while selecting a lasso is drawn.

function listenTo(scene, { onPick, onHover, onMove, onKey, onLasso, selecting }) {
  const { stage, camera } = scene, fingers = new Map();
  let travelled = 0;

  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 0 && event.pointerType === "mouse" && event.button !== 2) return;
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, place(event));
    travelled = 0;
    if (selecting()) scene.lasso = [place(event)];
  });

  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId), now = place(event);
    if (!before) return onHover(...now);
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]], half = Math.min(scene.width, scene.height) / 2;
    travelled += Math.hypot(dx, dy);
    if (scene.lasso) scene.lasso.push(now);
    else if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const apart = (at) => Math.max(10, Math.hypot(at[0] - other[0], at[1] - other[1]));
      camera.scale(apart(now) / apart(before));
      camera.pan(dx / 2 / half, -dy / 2 / half);
    } else if (event.shiftKey || event.buttons === 2) camera.pan(dx / half, -dy / half);
    else camera.turn(-dx / half * 1.5, dy / half * 1.5);
    fingers.set(event.pointerId, now);
    onMove();
  });

  const lifted = (event) => {
    const was = fingers.delete(event.pointerId), { lasso } = scene;
    scene.lasso = null;
    if (was && lasso && event.type === "pointerup" && travelled >= 5) onLasso(lasso);
    else if (was && event.type === "pointerup" && fingers.size === 0 && travelled < 5) onPick(...place(event));
  };
  stage.addEventListener("pointerup", lifted);
  stage.addEventListener("pointercancel", lifted);
  stage.addEventListener("pointerleave", () => onHover(-99, -99));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());

  // The wheel turns the page's own, unless somebody is at work in the view.
  stage.addEventListener("wheel", (event) => {
    if (document.activeElement !== stage && !event.ctrlKey) return;
    event.preventDefault();
    camera.scale(Math.exp(-event.deltaY / 500));
    onMove();
  }, { passive: false });

  const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const turn = turns[event.key];
    if (turn && event.shiftKey) camera.pan(turn[0] / 2, turn[1] / 2);
    else if (turn) camera.turn(...turn);
    else if (event.key === "+" || event.key === "=") camera.scale(1.15);
    else if (event.key === "-") camera.scale(1 / 1.15);
    else if (event.key === "0") camera.reset();
    else if (!onKey(event.key)) return;
    event.preventDefault();
    onMove();
  });
}
