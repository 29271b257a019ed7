"""Regions that move through training and through the layers, as a film."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from emergence_ext.figures import SAMPLES, Moment, Stage, drawable, strength_reach
from emergence_ext.lookup import path_named, require_kind
from emergence_ext.run import Emergence, FinishedRun
from emergence_ext.settings import require_count
from emergence_ext.store import write_file

logger = logging.getLogger(__name__)

Frames = Iterable[NDArray[Any]]

MAX_BYTES: Final = 10_000_000
"""Of a film, so that it can be sent along."""

_GIF_FPS: Final = 10
_SHARE: Final = 0.97  # of the last step's regions that the scale is chosen to hold
_STILL: Final = (0.06, 0.12)  # shares of the time in which the first and the last step stand still


def shown_samples(results: Emergence, count: int = SAMPLES) -> Tensor:
    """Choose the samples of the lower half, `[count]`: the first held-out ones of some categories.

    Args:
        results: of a run.
        count: how many, at most.
    """
    held_out = results.held_out.nonzero().flatten()
    y = results.y[held_out]
    by_category = [held_out[y == c] for c in range(len(results.categories))]
    by_category = [members for members in by_category if len(members)]
    turns = -(-count // len(by_category))
    abreast = min(count, len(by_category))
    columns = [i * len(by_category) // abreast for i in range(abreast)]
    ranked = [by_category[c][t] for t in range(turns) for c in columns if t < len(by_category[c])]
    return torch.stack(ranked[:count])


def animate(
    run: FinishedRun, path: Path | str | None = None, *, fps: int = 24, seconds: float = 12.0
) -> Path:
    """Write a film of a finished run, with its images, see `film_of`.

    Args:
        run: the run.
        path: without a suffix; None: `animate/emergence` in the run directory.
        fps, seconds: as of `film_of`.

    Returns:
        The file.

    Examples:
        >>> import emergence_ext as ee
        >>> run = ee.FinishedRun.open("runs/demo")
        >>> ee.report.animate(run, fps=2, seconds=1.0).exists()
        True
    """
    require_kind(run=(run, FinishedRun))
    e, thumbnails = run.emergence.sample, run.thumbnails
    images = None if thumbnails is None else thumbnails.alone.images(shown_samples(e))
    path = None if path is None else path_named(path, "path")
    place = path or run.inside.experiment("animate") / "emergence"
    return film_of(e, place, images, fps=fps, seconds=seconds)


def film_of(
    results: Emergence,
    path: Path,
    images: Tensor | None = None,
    *,
    fps: int = 24,
    seconds: float = 12.0,
    max_points: int = 900,
    random_state: int = 0,
) -> Path:
    """Write a film of the regions in the fixed frame, below 10 MB (the paper's demo video).

    Upper half: the held-out images' regions in the last layer through all checkpoints. Lower half:
    the regions of `shown_samples` through all layers of the last checkpoint, deeper in colour the
    surer they say the true category. A run of one checkpoint, or of one layer, has the other half
    alone. Where the regions are between two steps is drawn, not measured: cubic B-splines lead
    through every step.

    Args:
        results: of a run.
        path: without a suffix; `.mp4` is appended, or `.gif` where imageio-ffmpeg is absent.
        images: of `shown_samples`, in 0..1, `[n, channels, H', W']`.
        fps: frames a second, 1 to 60.
        seconds: length, 1 to 120.
        max_points: at most so many regions are drawn in the upper half.
        random_state: seed of that choice.

    Returns:
        The file.

    Raises:
        ValueError: fps or seconds out of range, one checkpoint and one layer, or a frame of more
            than three dimensions.
    """
    require_count("fps", fps, 0)
    if not 1 <= fps <= 60:
        raise ValueError(f"fps must be from 1 to 60, got {fps}")
    if not 1 <= seconds <= 120:
        raise ValueError(f"seconds must be from 1 to 120, got {seconds}")
    if results.frame.dim > 3:
        raise ValueError(
            f"animate: the run has dim = {results.frame.dim}, only 2 or 3 can be drawn; "
            "run again with --dim 3"
        )
    if len(results.labels) < 2 and len(results.layers) < 2:
        raise ValueError(
            "animate: the run has one checkpoint and one layer, so nothing moves; give "
            "--checkpoints, or more --layers, to `emergence run`"
        )
    film = _writer()
    if film is None:
        fps = min(fps, _GIF_FPS)
    count = max(2, round(fps * seconds))
    frames = _frames(results, images, count, max_points, random_state)
    bar = tqdm(frames, total=count, desc="frames", unit="frame", disable=None)
    if film is None:
        return _write_gif(bar, path.with_name(f"{path.name}.gif"), fps)
    return _write_mp4(film, bar, path.with_name(f"{path.name}.mp4"), fps, seconds)


def write_film(frames: Frames, path: Path, *, fps: int) -> Path:
    """Write frames as a film, below 10 MB.

    Args:
        frames: `[height, width, 3]` each, uint8, of even height and width.
        path: without a suffix; `.mp4` is appended, or `.gif` where imageio-ffmpeg is absent.
        fps: frames a second.

    Returns:
        The file.
    """
    pictures, film = list(frames), _writer()
    if film is None:
        return _write_gif(pictures, path.with_name(f"{path.name}.gif"), fps)
    seconds = len(pictures) / fps
    return _write_mp4(film, pictures, path.with_name(f"{path.name}.mp4"), fps, seconds)


def _frames(
    results: Emergence, images: Tensor | None, count: int, max_points: int, random_state: int
) -> Iterator[NDArray[Any]]:
    """Draw the frames of the film, `[height, width, 3]` each."""
    training, layers = len(results.labels) > 1, len(results.layers) > 1
    chosen = shown_samples(results)
    held_out = results.held_out.nonzero().flatten()
    each = torch.stack(
        [results.regions(t, -1, held_out).double() for t in range(len(results.labels))]
    )
    each, labels = results.counted(each, results.y[held_out], held_out)
    through_training = each.numpy()
    through_layers = np.stack(
        [results.regions(-1, k, chosen).double() for k in range(len(results.layers))]
    )
    last = through_training[-1].reshape(-1, results.frame.dim)
    regions, _ = drawable(last, np.inf, max_points, random_state)
    stage = Stage(
        results.frame.directions,
        results.categories,
        strength_reach(_spatial(last), share=_SHARE),
        epochs=results.labels if training else (),
        layers=results.layers if layers else (),
        training_labels=labels,
        sample_labels=results.y[chosen],
        images=images,
        shown=regions,
    )
    y = results.y[chosen][:, None, None].expand(-1, through_layers.shape[2], 1)
    epoch_path, layer_path = _smooth(through_training), _smooth(through_layers)
    for share in _pace(count):
        above = below = None
        if training:
            at = share * (len(results.labels) - 1)
            above = Moment(at, epoch_path(at))
        if layers:
            at = share * (len(results.layers) - 1)
            h = layer_path(at)
            p = results.frame.posterior(torch.from_numpy(h)).gather(-1, y)[..., 0]
            if results.mask is not None:  # what is nowhere is not drawn
                h[~results.mask[chosen].numpy()] = np.nan
            below = Moment(at, h, p)
        yield stage.draw(above, below)


def _pace(count: int) -> Iterator[float]:
    """Shares of the way at each frame: first and last step stand still for a while."""
    first, last = _STILL
    for index in range(count):
        yield min(1.0, max(0.0, (index / (count - 1) - first) / (1 - first - last)))


def _smooth(steps: NDArray[Any]) -> Callable[[float], NDArray[Any]]:
    """The cubic B-spline through steps `[n, ...]` at 0, 1, .., n - 1, at rest at both ends."""
    from scipy.interpolate import make_interp_spline

    if len(steps) < 2:
        return lambda at: steps[0]
    spline = make_interp_spline(np.arange(len(steps)), steps, k=3, bc_type="clamped")
    return lambda at: np.asarray(spline(at))


def _spatial(points: NDArray[Any]) -> NDArray[Any]:
    """Points `[n, dim]` as `[n, 3]`."""
    return np.pad(points, ((0, 0), (0, 3 - points.shape[1])))


def _writer() -> Any | None:
    """The coder of films; None, and a message, where it is absent."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        logger.warning(
            "imageio-ffmpeg is absent or has no ffmpeg: a GIF is written, coarser and at most "
            f"{_GIF_FPS} frames a second; `pip install imageio-ffmpeg` gives an MP4"
        )
        return None
    return imageio_ffmpeg


def _write_mp4(film: Any, frames: Frames, path: Path, fps: int, seconds: float) -> Path:
    """Write H.264 that browsers play, its rate capped so that the file stays below the limit."""
    rate = int(min(6e6, 0.9 * 8 * MAX_BYTES / max(seconds, 1)))
    limits = ["-crf", "20", "-maxrate", str(rate), "-bufsize", str(rate), "-movflags", "+faststart"]
    with TemporaryDirectory() as folder:
        temporary = Path(folder) / "film.mp4"
        writer = None
        try:
            for frame in frames:
                if writer is None:
                    size = (frame.shape[1], frame.shape[0])
                    writer = film.write_frames(
                        str(temporary), size, fps=fps, codec="libx264", quality=None,
                        pix_fmt_out="yuv420p", output_params=limits, ffmpeg_log_level="error",
                    )  # fmt: skip
                    writer.send(None)
                writer.send(np.ascontiguousarray(frame))
        finally:
            if writer is not None:
                writer.close()
        write_file(path, temporary.read_bytes())
    return path


def _write_gif(frames: Frames, path: Path, fps: int) -> Path:
    """Write a GIF of half the size; frames are left out until it is below the limit."""
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame)
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    step = 1
    while True:
        content = io.BytesIO()
        kept = pictures[::step]
        kept[0].save(
            content, format="GIF", save_all=True, append_images=kept[1:], loop=0,
            duration=round(1000 * step / fps),
        )  # fmt: skip
        if content.tell() < MAX_BYTES or len(kept) <= 2:
            write_file(path, content.getvalue())
            return path
        step *= 2
