"""The list of ``ovseg``'s subcommands. Each lies in a module of its own, which is imported only when it is asked for.

A subcommand is a function whose typed arguments and docstring make its options and help (by tyro). Its module imports
nothing heavy (torch, dask, prefect) at the top, so that its ``--help`` is quick too. It returns None, or an
exit status.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Subcommand:
    """What ``ovseg --help`` tells of a subcommand, and where it lies.

    Attributes:
        name: What the user types after ``ovseg``.
        group: Heading under which it is listed.
        summary: One line, in the imperative.
        function: ``module:function`` that does it.
        examples: Whole command lines.
    """

    name: str
    group: str
    summary: str
    function: str
    examples: tuple[str, ...]

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.function.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return loaded


SUBCOMMANDS = (
    Subcommand(
        name="prepare",
        group="data",
        summary="turn a data set in its official layout, a folder of pictures, or drawn pictures into scenes",
        function="flows.prepare_command:prepare",
        examples=(
            "ovseg prepare drawn-world --split demo --scenes 1000",
            "ovseg prepare coco --root data/coco --split train2017 --labels panoptic --workers 4",
            "ovseg prepare folder --root my_pictures --check",
        ),
    ),
    Subcommand(
        name="status",
        group="look",
        summary="tell which units of which artifacts are done, stale, missing or corrupt, and why",
        function="flows.status_command:status",
        examples=(
            "ovseg status --config flows/configs/demo.toml",
            "ovseg status runs --json",
        ),
    ),
)
