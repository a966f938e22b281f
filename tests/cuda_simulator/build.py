"""Compile ``backend.cpp`` for the installed torch, once for each version of both."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

TESTED = ("2.13",)
"""Versions of torch whose interfaces ``backend.cpp`` is known to fit."""
SOURCE = Path(__file__).with_name("backend.cpp")


def torch_folder() -> Path:
    """Return the folder of torch, which is not imported: the library must be loaded before."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def reason_to_skip() -> str | None:
    """Return why there is no simulator here, or None."""
    installed = version("torch")
    if (torch_folder() / "lib" / "libtorch_cuda.so").exists():
        return f"torch {installed} is a build with CUDA"
    if not installed.startswith(tuple(f"{tested}." for tested in TESTED)):
        return f"torch {installed} is not among the versions that it was tested with: {', '.join(TESTED)}"
    if shutil.which("g++") is None:
        return "g++ is missing"
    return None


def library() -> Path:
    """Return the compiled library; it takes half a minute where it is not in ``SFT_TEST_CACHE`` yet."""
    # The folder of torch is in the library as well: one that was built for a removed environment cannot be loaded.
    source = hashlib.sha256(SOURCE.read_bytes() + bytes(torch_folder())).hexdigest()[:16]
    cache = Path(os.environ.get("SFT_TEST_CACHE", tempfile.gettempdir()))
    file = cache / f"simulated-cuda-{version('torch')}-{source}.so"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        torch = torch_folder()
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / file.name
            subprocess.run(
                ["g++", "-O1", "-shared", "-fPIC", "-std=c++20", str(SOURCE), "-o", str(made),
                 f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include",
                 f"-L{torch}/lib", f"-Wl,-rpath,{torch}/lib", "-ltorch_cpu", "-lc10"],
                check=True,
            )  # fmt: skip
            made.replace(file)
    return file
