"""From the sdist to tests in an empty environment: `python -m tests.trust.audit`, or `make audit`.

For each version of torch that is asked for, an environment is made that holds nothing. The sdist is
built into a wheel with a compiler and then without one, installed, and its own tests are run: by
default a sample of the files (`SAMPLE`): the build, the library and random cases of the ops against
the oracle, files, images, weights, a training and a run. `--whole` runs all, hours on two cores.
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
SAMPLE = (
    "tests/test_build.py",
    "tests/ops/test_library.py",
    "tests/ops/test_backend.py",
    "tests/ops/test_fuzz.py",
    "tests/ops/test_ops_errors.py",
    "tests/method/test_vmf.py",
    "tests/store",
    "tests/data",
    "tests/network/test_weights.py",
    "tests/network/test_calling.py",
    "tests/training/test_same_training.py",
    "tests/run/test_run.py",
)
NEEDED = ("setuptools>=77", "ninja", "pytest", "pytest-xdist", "hypothesis", "jinja2", "mlxtend")
PYTEST = ("-q", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")


def main() -> int:
    """Audit every environment; return how many failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torch", nargs="+", default=["2.13.0", "2.14.1"], help="its versions")
    parser.add_argument("--no-compiler", action="store_true", help="only without a compiler")
    parser.add_argument("--whole", action="store_true", help="all tests and not the sample")
    parser.add_argument("--tests", nargs="+", default=list(SAMPLE), help="in place of the sample")
    asked = parser.parse_args()
    tests = ["tests"] if asked.whole else asked.tests
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        sdist = _sdist(Path(folder))
        for version in asked.torch:
            python = _environment(Path(folder) / version, version)
            for compiler in (False,) if asked.no_compiler else (True, False):
                what = f"torch {version}, {'with' if compiler else 'without'} a compiler"
                print(f"== {what}", flush=True)
                if python is None or not _audit(sdist, python, compiler, tests):
                    failed.append(what)
    print("failed: " + "; ".join(failed) if failed else "all passed", flush=True)
    return len(failed)


def _sdist(folder: Path) -> Path:
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    # What it copied is of no interest.
    command = [sys.executable, "-c", build, folder]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def _environment(folder: Path, version: str) -> Path | None:
    """Make an environment of a torch and what the tests need; None where that fails."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = (python, "-m", "pip", "install", "-q", f"torch=={version}", *NEEDED)
    return python if _run(install, _variables(python, compiler=True)) else None


def _audit(sdist: Path, python: Path, compiler: bool, tests: Sequence[str]) -> bool:
    environment = _variables(python, compiler)
    pip = (python, "-m", "pip")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = (*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, sdist)
        if not _run(build, environment):
            return False
        (wheel,) = folder.glob("*.whl")
        if wheel.name.endswith("-py3-none-any.whl") == compiler:
            print(f"  {wheel.name} names machines that it is not for")
            return False
        install = (*pip, "install", "-q", wheel)
        again = (*install, "--force-reinstall", "--no-deps")  # over that with a compiler
        if not (_run(install, environment) and _run(again, environment)):
            return False
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "source", filter="data")
        (source,) = (folder / "source").iterdir()
        # What is installed is tested, not the sources beside the tests.
        shutil.rmtree(source / "emergence_ext")
        return _run((python, "-m", "pytest", *PYTEST, *tests), environment, source)


def _variables(python: Path, compiler: bool) -> dict[str, str]:
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"  # each process of the tests has a core of its own
    if not compiler:
        environment |= {"CXX": "/no/compiler", "CC": "/no/compiler", "FORCE_CUDA": "0"}
        environment["PATH"] = str(python.parent)
    return environment


def _run(
    command: Sequence[object], environment: Mapping[str, str], where: Path | None = None
) -> bool:
    done = subprocess.run([str(part) for part in command], cwd=where, env=dict(environment))
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
