"""From the sdist to tests in an empty environment: `python -m tests.trust.audit`, or `make audit`.

For each version of torch that is asked for, an environment is made that holds nothing, the sdist is
built into a wheel with and without a compiler, installed, and its own tests are run from it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/ops", "tests/method", "tests/store", "tests/data", "tests/network", "tests/run")
NEEDED = ("setuptools>=77", "ninja", "pytest", "pytest-xdist", "hypothesis", "jinja2", "mlxtend")
PYTEST = ("-q", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")


def main() -> int:
    """Audit every environment; return how many failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torch", nargs="+", default=["2.14.1"], help="versions of torch")
    parser.add_argument("--no-compiler", action="store_true", help="only without a compiler")
    parser.add_argument("tests", nargs="*", default=list(TESTS))
    asked = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        sdist = _sdist(Path(folder))
        for version in asked.torch:
            for compiler in (False,) if asked.no_compiler else (True, False):
                what = f"torch {version}, {'with' if compiler else 'without'} a compiler"
                print(f"== {what}", flush=True)
                if not _audit(sdist, Path(folder) / "env", version, compiler, asked.tests):
                    failed.append(what)
    print("failed: " + "; ".join(failed) if failed else "all passed", flush=True)
    return len(failed)


def _sdist(folder: Path) -> Path:
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT, check=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def _audit(sdist: Path, folder: Path, version: str, compiler: bool, tests: Sequence[str]) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"  # each process of the tests has a core of its own
    if not compiler:
        environment |= {"CXX": "/no/compiler", "CC": "/no/compiler", "FORCE_CUDA": "0"}
        environment["PATH"] = str(python.parent)

    def run(*command: object, where: Path | None = None) -> bool:
        return _run(command, environment, where)

    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    installed = run(python, "-m", "pip", "install", "-q", f"torch=={version}", *NEEDED) and run(
        python, "-m", "pip", "install", "-q", "--no-build-isolation", sdist
    )
    # What is installed is tested, not the sources beside the tests.
    shutil.rmtree(source / "emergence_ext", ignore_errors=True)
    return installed and run(python, "-m", "pytest", *PYTEST, *tests, where=source)


def _run(command: Sequence[object], environment: Mapping[str, str], where: Path | None) -> bool:
    done = subprocess.run([str(part) for part in command], cwd=where, env=dict(environment))
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
