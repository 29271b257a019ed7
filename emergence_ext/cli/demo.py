"""The command that shows all of it on images that need no folder."""

from __future__ import annotations

import time
from pathlib import Path

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import Out, Seed, command_line, reported
from emergence_ext.cli.foreground import tell_shares
from emergence_ext.cli.network import kept_epochs
from emergence_ext.cli.terminal import closing, echo
from emergence_ext.settings import Settings


@command(goes_on=True)
def demo(out: Out = Path("runs/demo"), seed: Seed = 0) -> None:
    """Train a small network on scenes of real digits and show what it learned, where and when.

    In each scene one whole digit stands among fragments of others: whether knowledge points lie on
    it can be held against the truth.

    Example: emergence demo --out runs/demo
    """
    with reported():
        from emergence_ext import data, network, report, training
        from emergence_ext.run import SubjectSpec, check_place, run
        from emergence_ext.studies import foreground

        check_place(out)
        started = time.perf_counter()
        train_set, test_set = data.scenes(train=True), data.scenes(train=False)
        model = network.load_model("scene_vgg", num_classes=10, random_state=seed)
        recipe = training.RECIPES["scene_vgg"]
        log = training.train(
            model.module, train_set, test_set, recipe, out=out / "training",
            checkpoints=kept_epochs(recipe.epochs), random_state=seed, model="scene_vgg",
        )  # fmt: skip
        spec = SubjectSpec(
            "digit-scenes",
            "scene_vgg",
            checkpoints=str(out / "training" / "epoch_*.safetensors"),
            layers="conv2_1,conv3_2,conv4_1,conv5_1",
            size=64,
            random_state=seed,
        )
        # Most regions of a scene show no digit: a larger prior lets go of strength that tells
        # nothing there, a larger alpha turns the others to what their image shows.
        settings = Settings(region_images=100, alpha=10, region_prior=0.3, random_state=seed)
        finished = run(spec.load(), out, settings, command=command_line())
        objects = foreground.find_objects(finished.emergence, boxes=test_set.boxes)
        with finished.held():
            finished.keep(objects, foreground.NAME)
        page = report.write(finished)
        echo(f"accuracy on {len(test_set):,} left-out scenes: {log.val_accuracy[-1]:.1%}")
        tell_shares(finished.emergence, objects)
        echo(f"{time.perf_counter() - started:.0f} s in all")
        closing(page)
