"""Builds the kernels' shared library with nvcc into the package: the sources and flags of cmake/cuda.cmake, without the program's other
dependencies. NVCC names the compiler, else it is found on PATH, in CUDA_HOME or in /usr/local/cuda.
"""

import os
import pathlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ["-O3", "-std=c++20", "-gencode=arch=compute_90a,code=sm_90a", "-lineinfo", "-Xcompiler=-fPIC,-fvisibility=hidden", "-DNDEBUG"]


def find_nvcc():
    places = [os.environ.get("NVCC"), shutil.which("nvcc")]
    places += [f"{root}/bin/nvcc" for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if root]
    for place in places:
        if place and shutil.which(place):
            return place
    raise SystemExit("linnet_torch: expected nvcc 12.9 or newer on PATH or in CUDA_HOME, found none")


def sources():
    source = REPOSITORY / "src"
    if not source.is_dir():
        raise SystemExit(f"linnet_torch: expected the repository around {pathlib.Path(__file__).parent}: build from its checkout")
    kernels = [*source.glob("ops/*/*_sm90*.cu"), *source.glob("ops/*/*_cuda*.cu")]
    return sorted({*source.glob("*/*_cuda.cu"), *(p for p in kernels if not re.search(r"_(check|bench|case)[^/]*\.cu$", p.name))})


def build_library(to, scratch):
    nvcc = find_nvcc()
    scratch.mkdir(parents=True, exist_ok=True)
    wrapper = [shutil.which("ccache")] if shutil.which("ccache") else []

    def compile_one(path):
        built = scratch / (path.stem + ".o")
        subprocess.run([*wrapper, nvcc, *FLAGS, "-I", str(REPOSITORY / "src"), "-c", str(path), "-o", str(built)], check=True)
        return str(built)

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        objects = list(pool.map(compile_one, sources()))
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([nvcc, "-shared", "-cudart=static", *objects, "-o", str(to)], check=True)


class BuildLibrary(build_py):
    def run(self):
        super().run()
        build_library(pathlib.Path(self.build_lib) / "linnet_torch" / "liblinnet_cuda.so", pathlib.Path("build") / "kernels")


class PlatformDistribution(Distribution):
    def has_ext_modules(self):  # the wheel is of this platform
        return True


setup(cmdclass={"build_py": BuildLibrary}, distclass=PlatformDistribution)
