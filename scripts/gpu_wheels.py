"""Download what a GPU image without network lacks to run this project: wheels of at most 64 MB.

    python scripts/gpu_wheels.py [--to wheels] [--have installed.txt] [--also trl "transformers>=5.23"]

The bounds of pyproject.toml decide the versions. ``--have`` names the output of ``pip list --format=freeze`` on the
image; without it, an image with Python 3.12, torch 2.11 (CUDA 13.0) and transformers 5.17 is assumed (``IMAGE``).
bitsandbytes is reduced to the libraries for CUDA 13.0 and for the CPU. The output ends with the commands for the image.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import deque
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MOST = 64 * 10**6
"""Most bytes of all wheels together."""
LIBRARIES = ("libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)] + ["manylinux2014_x86_64"]
FOR_IMAGE = {"python_version": "3.12", "python_full_version": "3.12.0", "platform_system": "Linux", "extra": "",
             "sys_platform": "linux", "platform_machine": "x86_64", "implementation_name": "cpython",
             "platform_python_implementation": "CPython", "os_name": "posix"}  # fmt: skip
IMAGE = """
torch==2.11.0 triton==3.6.0 transformers==5.17.0 accelerate==1.15.0 tokenizers==0.23.2 huggingface_hub==1.33.0
numpy==2.5.2 safetensors==0.8.0 pyarrow pandas aiohttp aiosignal attrs certifi click filelock frozenlist hf-xet httpx
jinja2 markdown-it-py markupsafe multidict packaging propcache psutil pygments python-dateutil pyyaml regex requests
shellingham six tqdm xxhash yarl pytest pytest-timeout pytest-xdist hypothesis setuptools
"""
"""Packages of an image; one without a version is taken to satisfy every bound, which ``sft doctor`` checks there."""
USE = """
On the image, from a checkout of this repository and with these wheels in {to}:

    mkdir -p /tmp/site && for wheel in {to}/*.whl; do python3 -m zipfile -e "$wheel" /tmp/site; done
    export PYTHONPATH=/tmp/site
    python3 -m pip install --no-deps --no-index --no-build-isolation -e .
    python3 scripts/gpu_acceptance.py
"""


def main() -> None:
    """Download, reduce and measure the wheels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("wheels"), help="directory of the wheels")
    parser.add_argument("--have", type=Path, help="what the image has: the output of pip list --format=freeze there")
    parser.add_argument("--also", nargs="+", default=[], metavar="REQUIREMENT", help="more packages to bring along")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    if found := list(options.to.glob("*.whl")):
        sys.exit(f"{options.to} already has {len(found)} wheels; name an empty directory by --to")
    have = image((options.have.read_text() if options.have else IMAGE).split())
    for wheel in download(wanted(options.also), have, options.to):
        if wheel.name.startswith("bitsandbytes-"):
            keep_libraries(wheel, LIBRARIES)
    wheels = sorted(options.to.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 1e6:6.2f} MB  {wheel.name}")
    total = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{total / 1e6:6.2f} MB  in all, {MOST / 1e6:.0f} allowed")
    print(USE.format(to=options.to))
    if total > MOST:
        sys.exit("too large: name what the image has by --have, or remove --also")


def image(words: list[str]) -> dict[str, str]:
    """Return the packages of an image and their versions, empty where it is not known."""
    pairs = (word.partition("==") for word in words)
    return {canonicalize_name(name): version.partition("+")[0] for name, _, version in pairs}


def wanted(also: list[str]) -> list[Requirement]:
    """Return the requirements of the project, of its kernels for CUDA, and ``also``, which come along in any case."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in (*also, *project["dependencies"], *project["optional-dependencies"]["liger"])]


def satisfied(need: Requirement, have: dict[str, str]) -> bool:
    """Whether the image has it within its bounds."""
    version = have.get(canonicalize_name(need.name))
    return version is not None and (not version or need.specifier.contains(version, prereleases=True))


def download(needs: list[Requirement], have: dict[str, str], to: Path) -> Iterator[Path]:
    """Download what the image lacks, with what that needs in turn, and yield the wheels."""
    queue, brought = deque(needs), set[str]()
    while queue:
        need = queue.popleft()
        name = canonicalize_name(need.name)
        if name in brought or (need.marker and not need.marker.evaluate(FOR_IMAGE)) or satisfied(need, have):
            continue
        brought.add(name)
        before = set(to.glob("*.whl"))
        fetch(f"{need.name}{need.specifier}", to)
        for wheel in set(to.glob("*.whl")) - before:
            queue.extend(requirements(wheel))
            yield wheel


def fetch(requirement: str, to: Path) -> None:
    """Download one wheel for the image, or build it from a source distribution of pure Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    target = ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--abi", "abi3", "--abi", "none"]
    words = ["download", "--no-deps", "--only-binary=:all:", *target, *platforms, "--dest", str(to), requirement]
    if subprocess.run([*pip, *words], capture_output=True).returncode:
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(to), requirement], check=True)


def requirements(wheel: Path) -> Iterator[Requirement]:
    """Yield what a wheel needs."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = Parser().parsestr(archive.read(name).decode())
    yield from map(Requirement, metadata.get_all("Requires-Dist") or ())


def keep_libraries(wheel: Path, kept: tuple[str, ...]) -> None:
    """Rewrite a wheel without its other shared libraries, and its list of files with it."""
    part = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as smaller:
        dropped = {name for name in archive.namelist() if name.endswith(".so") and Path(name).name not in kept}
        for item in archive.infolist():
            content = archive.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if line.partition(",")[0] not in dropped).encode()
            if item.filename not in dropped:
                smaller.writestr(item, content, zipfile.ZIP_DEFLATED)
    part.replace(wheel)


if __name__ == "__main__":
    main()
