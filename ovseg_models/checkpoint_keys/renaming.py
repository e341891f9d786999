"""Renaming keys by rules, each of which rewrites one kind of key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Rewrites keys that match a whole pattern.

    Attributes:
        pattern: A regular expression with groups.
        template: The new key; ``{0}`` stands for the first group.
        shifts: Pairs of a group's index and what to add to its number, where two layouts count differently.
    """

    pattern: str
    template: str
    shifts: tuple[tuple[int, int], ...] = ()

    def rename(self, key: str) -> str | None:
        """Rewrite a key, or return None if it does not match."""
        match = re.fullmatch(self.pattern, key)
        if match is None:
            return None
        groups = list(match.groups())
        for index, shift in self.shifts:
            groups[index] = str(int(groups[index]) + shift)
        return self.template.format(*groups)


def rename(key: str, rules: Sequence[Rule]) -> str | None:
    """Rewrite a key by the first rule that matches; None if none does."""
    return next((name for rule in rules if (name := rule.rename(key)) is not None), None)
