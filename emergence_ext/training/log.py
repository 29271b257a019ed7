"""What happened in a training, epoch by epoch, and where that lies among its files."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from emergence_ext.store import Saved

__all__ = ["TrainingLog"]


@dataclass
class TrainingLog(Saved):
    """What happened in each epoch; entry 0 is before training, its loss and accuracy NaN.

    Attributes:
        epoch: 0, 1, ...
        loss: mean of the loss, the cross-entropy if no other was given, over the steps.
        accuracy: share right in those steps (weights still changing, images augmented).
        val_accuracy: share right on the validation set after the epoch.
        seconds: duration, validation included.

    Examples:
        >>> from emergence_ext import training
        >>> log = training.TrainingLog(
        ...     [0, 1], [float("nan"), 0.7], [float("nan"), 0.5], [0.1, 0.6], [0.0, 2.0]
        ... )
        >>> max(log.val_accuracy)
        0.6
    """

    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, *values: float) -> None:
        """Append an epoch; the values in the order above."""
        for column, value in zip(asdict(self), values, strict=True):
            getattr(self, column).append(value)

    @staticmethod
    def inside(folder: Path) -> Path:
        """Where the log of a training in a folder lies, without a suffix."""
        return folder / "log"
