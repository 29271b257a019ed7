"""Nothing asks the network for anything: no socket is opened in a training, a run or a report."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest import mock

from tests.trust import jobs
from tests.trust.forked import forked


def without_sockets(images: Path, out: Path) -> None:
    """Train, run, attack and draw the report, where a socket is an error."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    with (
        mock.patch.object(socket, "socket", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
    ):
        jobs.train(images, out)
        jobs.analyse(images, out)
        jobs.attacked(images, out)


def test_no_socket_is_opened(image_folder: Path, tmp_path: Path) -> None:
    ending = forked(without_sockets, image_folder, tmp_path / "out")
    assert ending.error is None and ending.killed_by is None, ending.trace
