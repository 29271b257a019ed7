"""Train a network, or a head on frozen layers, and keep it as it was after chosen epochs."""

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from emergence_ext.data import Samples
from emergence_ext.lookup import device_named, path_named, require_kind
from emergence_ext.network import (
    CheckpointFile,
    Origin,
    autocast,
    classify,
    find_state,
    first_logits,
    keep_state,
    load_checkpoints,
    preserved,
    require_module,
    restore_state,
    save_checkpoint,
    write_index,
)
from emergence_ext.network import preprocess as prepared
from emergence_ext.settings import Precision, require_choice, require_count
from emergence_ext.store import exists, locked, made_from
from emergence_ext.training.heads import (
    CachedInputs,
    ImageInputs,
    Inputs,
    frozen_names,
    remember_inputs,
)
from emergence_ext.training.log import TrainingLog
from emergence_ext.training.losses import CrossEntropy, Loss
from emergence_ext.training.recipes import RECIPES, Recipe
from emergence_ext.training.signature import depends_on, require_same

__all__ = [
    "RECIPES",
    "CheckpointFile",
    "Recipe",
    "TrainingLog",
    "evaluate",
    "load_checkpoints",
    "train",
]

logger = logging.getLogger(__name__)


def train(
    module: nn.Module,
    train_set: Samples,
    val_set: Samples,
    recipe: Recipe,
    *,
    out: Path | str,
    preprocess: nn.Module | None = None,
    checkpoints: Sequence[int] | None = None,
    random_state: int = 0,
    device: torch.device | str = "cpu",
    loss: Loss | None = None,
    model: str | None = None,
    output: str | None = None,
) -> TrainingLog:
    """Train a network in place, keep checkpoints, and go on after the last epoch if killed.

    Checkpoints say how images were given to the network (`network.Origin`) and carry a digest.
    What a folder holds is gone on with, or taken as finished, only where nothing differs: initial
    weights, code of the network, every image and its label, preprocessing, recipe, seed.

    Only the smallest submodule around all trained parameters is trained where the rest is frozen,
    nothing is augmented and that submodule gives the network's output: its inputs are computed
    once. The result is the same.

    Args:
        module: the network, trained in place; in eval mode and with its `requires_grad` as before
            afterwards. One of half precision or bfloat16 is trained, and kept, in float32, and has
            its own dtype again afterwards.
        train_set: images `[channels, H, W]` in 0..1 with labels in `[0, C)`, C the width of the
            network's output.
        val_set: likewise; never trained on.
        recipe: epochs, steps, what is frozen.
        out: folder for `epoch_0003.safetensors`, ..., `checkpoints.json`, the log and the state to
            resume from.
        preprocess: from images in 0..1 to the network's input, as from `network.preprocess`.
        checkpoints: epochs after which the network is kept, 0 is before training; None keeps the
            last.
        random_state: seed of the order, augmentation and dropout.
        device: where to train; the module comes back to the CPU.
        loss: what is lowered; the cross-entropy of the labels when left out.
        model, output: what the network was built by, as `network.load_model` takes them; its
            checkpoints say so.

    Raises:
        ValueError: the output's width is not the number of categories, a pattern that freezes
            nothing or everything, another training in `out`, or a loss or weights that are no
            longer finite.
        StoreError: what `out` holds of a training is damaged.
        RuntimeError: another process works in `out`.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import training
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
        >>> recipe = training.Recipe(epochs=2, batch_size=4)
        >>> training.train(net, images, images, recipe, out="trained", checkpoints=[0, 2]).epoch
        [0, 1, 2]
    """
    require_module(module)
    require_kind(
        train_set=(train_set, Samples), val_set=(val_set, Samples), recipe=(recipe, Recipe)
    )
    require_transform(preprocess)
    device, out = device_named(device), path_named(out, "out")
    if loss is not None and not hasattr(loss, "labelled"):
        raise TypeError(f"loss: expected one such as CrossEntropy(), got {loss!r}")
    if checkpoints is not None:
        require_kind(checkpoints=(checkpoints, Iterable))
    kept = {recipe.epochs} if checkpoints is None else set(checkpoints)
    if not kept <= set(range(recipe.epochs + 1)):
        raise ValueError(f"checkpoints: expected epochs in 0..{recipe.epochs}, got {sorted(kept)}")
    needed_gradient = {
        name: parameter.requires_grad for name, parameter in module.named_parameters()
    }
    frozen = frozen_names(module, recipe.freeze)
    tensors = [*module.parameters(), *module.buffers()]
    coarse = [(x, x.dtype) for x in tensors if x.dtype in (torch.float16, torch.bfloat16)]
    if coarse:
        # Steps that are small beside a weight are lost in few digits.
        logger.info("the network is of %s: it is trained in float32", coarse[0][1])
    try:
        for x, _ in coarse:
            x.data = x.data.float()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        run = _Run(
            module,
            recipe,
            out,
            kept,
            random_state,
            device,
            loss or CrossEntropy(),
            model,
            output,
        )
        with locked(out):
            return run.go(train_set, val_set, (preprocess or prepared("none")).to(device))
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(needed_gradient[name])
            parameter.grad = None
        for x, dtype in coarse:
            x.data = x.data.to(dtype)
        module.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        module.eval()


def evaluate(
    module: nn.Module,
    samples: Samples,
    *,
    preprocess: nn.Module | None = None,
    batch_size: int = 64,
    precision: Precision = "float32",
) -> float:
    """Return the share of samples that the module, left as it was, is right about.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import training
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
        >>> 0 <= training.evaluate(net, images) <= 1
        True
    """
    require_module(module)
    require_kind(samples=(samples, Samples))
    require_transform(preprocess)
    require_count("batch_size", batch_size, 1)
    require_choice("precision", precision, Precision)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    inputs = ImageInputs(samples, (preprocess or nn.Identity()).to(device), device)
    with preserved(module):
        return _accuracy(module, inputs, batch_size, autocast(precision, device))


def require_transform(preprocess: object) -> None:
    """Refuse what is no module from images in 0..1 to a network's input.

    Raises:
        TypeError: it is none, such as the name of one.
    """
    if preprocess is not None and not isinstance(preprocess, nn.Module):
        raise TypeError(
            f"preprocess: expected a module, got {type(preprocess).__name__}; network.preprocess "
            "makes one of a name or a function"
        )


class _Run:
    """One training: what is trained, and how far it has come."""

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        out: Path,
        kept: set[int],
        random_state: int,
        device: torch.device,
        loss: Loss,
        model: str | None,
        output: str | None,
    ) -> None:
        self.module = module
        self.model = model
        self.output = output
        self.loss = loss
        self.recipe = recipe
        self.out = out
        self.kept = kept
        self.random_state = random_state
        self.device = device
        self.autocast = autocast(recipe.precision, device)
        self.optimizer = _optimizer(module, recipe)
        self.log = TrainingLog()
        self.origin = Origin()
        self.depends_on: dict[str, str] = {}

    def go(self, train_set: Samples, val_set: Samples, preprocess: nn.Module) -> TrainingLog:
        self.module.eval()
        inputs = ImageInputs(train_set, preprocess, self.device)
        val_inputs = ImageInputs(val_set, preprocess, self.device)
        example = next(inputs.batches([torch.tensor([0])]))
        self._require_outputs(example, train_set, val_set)
        self.origin = self._origin(train_set, preprocess)
        self.depends_on = depends_on(
            self.module, self.recipe, train_set, val_set, preprocess,
            seed=self.random_state, loss=self.loss.identity, kept=sorted(self.kept),
        )  # fmt: skip
        self._resume()
        if not self.log.epoch or self.log.epoch[-1] < self.recipe.epochs:
            self._train(inputs, val_inputs, example)
        self._write_index()
        self.log.save(TrainingLog.inside(self.out), self.depends_on)
        return self.log

    def _train(self, inputs: Inputs, val_inputs: Inputs, example: Tensor) -> None:
        part = self.loss.trained_part(self.module, example)
        trained = self.module
        size = self.recipe.batch_size
        if part and not self.recipe.augment:
            cached = [
                remember_inputs(self.module, part, given, size, self.autocast)
                for given in (inputs, val_inputs)
            ]
            if all(isinstance(given, CachedInputs) for given in cached):
                trained = self.module.get_submodule(part)
                inputs, val_inputs = cached
        if not self.log.epoch:
            self.log.add(
                0, math.nan, math.nan, _accuracy(trained, val_inputs, size, self.autocast), 0.0
            )
            self._keep()
        steps = math.ceil(len(inputs.labels) / size)
        done = self.log.epoch[-1]
        with tqdm(
            total=self.recipe.epochs * steps, initial=done * steps, desc="training", disable=None
        ) as bar:
            for epoch in range(done + 1, self.recipe.epochs + 1):
                start = time.perf_counter()
                self.loss.set_training(self.module, part)
                loss, accuracy = self._epoch(epoch, trained, inputs, bar)
                self._require_finite(epoch)
                self.module.eval()
                validation = _accuracy(trained, val_inputs, size, self.autocast)
                self.log.add(epoch, loss, accuracy, validation, time.perf_counter() - start)
                bar.set_postfix(loss=f"{loss:.3f}", validation=f"{validation:.3f}")
                logger.info(
                    "epoch %d: loss %.4f, validation accuracy %.4f", epoch, loss, validation
                )
                self._keep()

    def _epoch(
        self, epoch: int, trained: nn.Module, inputs: Inputs, bar: tqdm
    ) -> tuple[float, float]:
        """Train for one epoch; its order and dropout depend on the seed and the epoch alone."""
        seed = int.from_bytes(hashlib.sha256(f"{self.random_state} {epoch}".encode()).digest()[:7])
        generator = torch.Generator().manual_seed(seed)
        count = len(inputs.labels)
        steps = math.ceil(count / self.recipe.batch_size)
        total_loss, right = 0.0, 0
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            batches = torch.randperm(count, generator=generator).tensor_split(steps)
            given_in_order = inputs.batches(batches, generator if self.recipe.augment else None)
            for step, (indices, given) in enumerate(
                zip(batches, given_in_order, strict=True), start=(epoch - 1) * steps
            ):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.recipe.lr * _schedule(
                        step / (self.recipe.epochs * steps), self.recipe.warmup
                    )
                labels = inputs.labels[indices]
                loss, logits = self.loss.step(trained, given, labels, self.autocast)
                if not torch.isfinite(loss):
                    raise self._diverged(f"the loss is {loss.item()}", epoch)
                if not loss.requires_grad:
                    raise ValueError(
                        "model: what it gives has no gradient, so nothing can be trained. Leave "
                        "torch.no_grad() and detach() out of its forward()"
                    )
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                total_loss += loss.item() * len(indices)
                right += int((logits.argmax(dim=1) == labels).sum())
                bar.update()
        return total_loss / count, right / count

    def _require_outputs(self, example: Tensor, train_set: Samples, val_set: Samples) -> None:
        if train_set.categories != val_set.categories:
            raise ValueError(
                f"val_set: its categories are not the training set's: {val_set.categories[:5]} and "
                f"{train_set.categories[:5]}"
            )
        logits = first_logits(self.module, example)
        count = len(train_set.categories)
        if logits.shape != (1, count):
            raise ValueError(
                f"module: expected logits [B, {count}], one a category, got {list(logits.shape)}. "
                f"Build the network with {count} outputs."
            )

    def _require_finite(self, epoch: int) -> None:
        """The last step of an epoch shows in no loss of that epoch."""
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                raise self._diverged(f"{name} is no longer finite", epoch)

    def _diverged(self, what: str, epoch: int) -> ValueError:
        return ValueError(
            f"lr: {what} in epoch {epoch}; train with a lower one than {self.recipe.lr}, into "
            f"another folder than {self.out}"
        )

    def _origin(self, train_set: Samples, preprocess: nn.Module) -> Origin:
        height, width = train_set[0][0].shape[-2:]
        return Origin(
            width if height == width else None,
            getattr(preprocess, "name", None),
            self.model,
            tuple(train_set.categories) if self.loss.labelled else (),
            self.output,
        )

    def _keep(self) -> None:
        epoch = self.log.epoch[-1]
        if epoch in self.kept:
            save_checkpoint(self.out, epoch, self.module, self.origin)
        settings = {"log": asdict(self.log)}
        keep_state(self.out, epoch, self.module, self.optimizer, settings, self.depends_on)
        self._write_index()

    def _resume(self) -> None:
        log = TrainingLog.inside(self.out)
        if exists(log) and (noted := made_from(log)) is not None:
            require_same(noted, self.depends_on, self.out)
        state = find_state(self.out)
        if state is None:
            return
        arrays, settings, there = state
        require_same(there, self.depends_on, self.out)
        restore_state(arrays, self.module, self.optimizer)
        self.log = TrainingLog(**settings["log"])
        logger.info("resumed after epoch %d", self.log.epoch[-1])

    def _write_index(self) -> None:
        columns = asdict(self.log)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        write_index(self.out, [row for row in rows if row["epoch"] in self.kept], self.origin)


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trained if parameter.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {
            "params": [parameter for parameter in trained if parameter.ndim <= 1],
            "weight_decay": 0.0,
        },
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.lr)


def _schedule(progress: float, warmup: float) -> float:
    """Return the share of the highest learning rate: a straight rise, then half a cosine."""
    if progress < warmup:
        return (progress + 0.01) / (warmup + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _accuracy(
    module: nn.Module, inputs: Inputs, batch_size: int, autocast: torch.autocast
) -> float:
    right = 0
    with torch.no_grad(), autocast:
        batches = torch.arange(len(inputs.labels)).split(batch_size)
        for indices, given in zip(batches, inputs.batches(batches), strict=True):
            right += int((classify(module, given).argmax(1) == inputs.labels[indices]).sum())
    return right / len(inputs.labels)
