"""Print a constraint for each dependency of pyproject.toml: the oldest version that it admits."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in [
    *project["dependencies"],
    *(one for extra in project["optional-dependencies"].values() for one in extra),
]:
    name, oldest = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\d.]+)", requirement).groups()
    print(f"{name}=={oldest}")
