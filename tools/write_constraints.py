"""Write constraints.txt: the version of every package that this environment holds for the project and its extras.

Packages of CUDA and Triton are left out: torch pins its own, and other ones for each platform.
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "constraints.txt"
LEFT_TO_TORCH = ("nvidia-", "cuda-", "triton")
HEADER = """\
# Written by tools/write_constraints.py from an environment in which everything installs, imports and passes its tests:
#   pip install -c constraints.txt -e '.[dev]'
# Packages of CUDA and Triton are left to torch, which pins its own for each platform.
"""


def requirements() -> Iterator[tuple[str, Requirement]]:
    """Yield the project's own requirements, each with the extra that it belongs to (empty for none).

    An extra that names another extra of the project yields nothing for it: the other one is yielded itself.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for requirement in map(Requirement, lines):
            if canonicalize_name(requirement.name) != canonicalize_name(project["name"]):
                yield extra, requirement


def closure(roots: Iterable[Requirement]) -> dict[str, str]:
    """Return the installed version of every package that requirements pull in here, themselves included.

    Raises:
        PackageNotFoundError: If one is not installed.
    """
    versions: dict[str, str] = {}
    waiting = list(roots)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        found = distribution(requirement.name)
        versions[key[0]] = found.version.partition("+")[0]
        for line in found.requires or []:
            needed = Requirement(line)
            extras = ["", *requirement.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return versions


def main() -> int:
    """Write the file; return the exit status."""
    versions: dict[str, str] = {}
    for extra, requirement in requirements():
        try:
            versions |= closure([requirement])
        except PackageNotFoundError as error:
            if extra in {"", "pipeline", "app", "dev"}:
                print(f"{error.name}: is not installed; run 'make install' first", file=sys.stderr)
                return 1
            print(f"{error.name} of extra '{extra}' is not installed and gets no version", file=sys.stderr)
    lines = [f"{name}=={versions[name]}" for name in sorted(versions) if not name.startswith(LEFT_TO_TORCH)]
    TARGET.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
