"""Build of the compiled library; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

import build_support  # noqa: E402 (setuptools does not put this folder on the path)

TOOLKIT = build_support.find_toolkit(os.environ)
if TOOLKIT is not None:
    # torch reads it once, at import, and would guess from the place of the nvcc on the PATH.
    os.environ["CUDA_HOME"] = str(TOOLKIT.home)

try:
    import torch
    from torch.utils import cpp_extension
except ImportError:

    class BuildLibrary(build_ext):
        """Stands in where there is no torch: says what to do."""

        def run(self) -> None:
            """Refuse to build, in one line."""
            sys.exit(f"error: {build_support.NO_TORCH}")

    def is_pure() -> bool:
        """Refuse to build, before anything is copied."""
        sys.exit(f"error: {build_support.NO_TORCH}")

else:

    @cache
    def make_plan() -> build_support.Plan:
        """Probe the compilers, once; what was asked for and cannot be built is one line."""
        try:
            return build_support.make_plan(os.environ, torch.version.cuda, TOOLKIT)
        except build_support.BuildError as error:
            sys.exit(f"error: {error}")

    def is_pure() -> bool:
        """Whether no library will be built, so that the wheel serves every machine."""
        return not make_plan().builds("cpu")

    class BuildLibrary(cpp_extension.BuildExtension):  # type: ignore[no-redef]
        """Probes, then builds the backends that can be built, and records why not the others."""

        def run(self) -> None:
            """Build the library and write `_build.json` beside it."""
            plan = make_plan()
            variant = build_support.torch_variant(torch.version.cuda, torch.version.hip)
            facts = build_support.build_facts(
                plan,
                TOOLKIT,
                package=self.distribution.get_version(),
                torch=torch.__version__.split("+")[0],
                torch_variant=variant,
            )
            in_place = self.inplace or self.editable_mode
            if plan.sanitizes and in_place:
                raise build_support.BuildError(build_support.NOT_IN_PLACE)
            # A fixed place, so that a second build compiles only what changed.
            objects = ROOT / "build" / ("sanitize" if plan.sanitizes else "")
            self.build_temp = str(objects / f"torch-{facts['torch']}-{variant}")
            if plan.builds("cpu"):
                os.environ["CXX"] = plan.cxx
                generated = Path(self.build_temp) / "generated"
                header = build_support.facts_header(facts)
                build_support.write_if_changed(generated / "build_facts.h", header)
                for extension, described in zip(
                    self.extensions, parts(plan, generated), strict=True
                ):
                    vars(extension).update(vars(described))
            else:
                self.extensions = []
            super().run()
            package = (ROOT if in_place else Path(self.build_lib)) / "emergence_ext"
            if not plan.builds("cpu"):
                for stale in [*package.glob("_C.*"), *package.glob(build_support.LIBRARY)]:
                    stale.unlink()
            text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
            build_support.write_if_changed(package / "_build.json", text)

        def get_ext_filename(self, fullname: str) -> str:
            """Give the library of the ops a name that tells of no Python."""
            *package, name = fullname.split(".")
            if name != "_ops":
                return super().get_ext_filename(fullname)
            return os.path.join(*package, build_support.LIBRARY)

        def build_extension(self, ext: Extension) -> None:
            """Link the module with the library, which is built first and lies beside it."""
            if ext.name == MODULE:
                folder = Path(self.get_ext_fullpath(OPS)).parent
                ext.extra_link_args += [f"-L{folder}", f"-l:{build_support.LIBRARY}"]
                ext.extra_link_args += ["-Wl,-rpath,$ORIGIN"]
            super().build_extension(ext)


class Wheel(bdist_wheel):
    """Is of any machine and Python where no library was built."""

    def run(self) -> None:
        """Settle that before the build, after which the wheel is named."""
        if is_pure():
            self.root_is_pure = True
            self.run_command("build_ext")  # which notes why there is no library
            self.distribution.ext_modules = []
        super().run()


def parts(plan: build_support.Plan, generated: Path) -> list[Extension]:
    """Describe to torch's builder the library of the ops, and the module beside it."""
    folders = ["csrc", "csrc/cpu"] + (["csrc/cuda"] if plan.builds("cuda") else [])
    sources = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in sorted((ROOT / folder).glob("*.c*"))
        if path.suffix in (".cpp", ".cu")
    ]
    flags = {"cxx": list(plan.cxx_flags), "nvcc": list(plan.nvcc_flags)}
    make = cpp_extension.CUDAExtension if plan.builds("cuda") else cpp_extension.CppExtension
    ops = make(
        OPS,
        sources,
        include_dirs=[str(ROOT / "csrc"), str(generated)],
        extra_compile_args=flags,
        extra_link_args=[*plan.link_flags, f"-Wl,-soname,{build_support.LIBRARY}"],
    )
    # The stable ABI is in these; what else torch's builder would link is of one torch or Python.
    ops.libraries = [
        name for name in ops.libraries if name in ("torch_cpu", "torch_cuda", "cudart")
    ]
    module = Extension(
        MODULE,
        ["csrc/python/module.cpp"],
        include_dirs=cpp_extension.include_paths(),  # torch brings pybind11
        extra_compile_args=flags,
        extra_link_args=list(plan.link_flags),
        language="c++",
    )
    return [ops, module]


OPS, MODULE = "emergence_ext._ops", "emergence_ext._C"

setup(
    ext_modules=[Extension(name, sources=[]) for name in (OPS, MODULE)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
