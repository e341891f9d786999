"""Renaming the tensors of a file, and how they fit those of a module."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

_SHOWN_KEYS = 20


@dataclass(frozen=True)
class KeyReport:
    """What did not fit, in the file's own key names, sorted.

    Attributes:
        missing: Expected, and not in the file.
        unexpected: In the file, and of no use here.
        misshapen: In both with different shapes, as ``key (found shape), expected (shape)``.
        notes: Sentences that explain a known reason.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """True when every tensor has its place."""
        return not (self.missing or self.unexpected or self.misshapen)

    def describe(self) -> str:
        """Count and list what did not fit, at most 20 keys of a kind; ``everything fits`` if nothing did not."""
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("misshapen", self.misshapen))
        parts = [f"{len(keys)} {kind} ({_shown(keys)})" for kind, keys in kinds if keys]
        return "; ".join((*parts, *self.notes)) or "everything fits"

    def require_fit(self, where: str) -> None:
        """Raise if anything is missing, unexpected or misshapen.

        Args:
            where: Names the file in the message.

        Raises:
            ValueError: With the keys that do not fit.
        """
        if not self.fits:
            raise ValueError(
                f"{where}: its keys do not fit the module: {self.describe()}; "
                "build the module with the sizes of the file, or choose another file"
            )


class Conversion(NamedTuple):
    """A state dict in the expected layout, and how the file fitted.

    ``tensors`` has every expected key; one that the file did not give keeps the module's own tensor.
    """

    tensors: dict[str, Tensor]
    report: KeyReport


def take_tensors(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    names: Mapping[str, str],
    *,
    ignored: Collection[str] = (),
) -> Conversion:
    """Pick the expected tensors out of a file.

    Args:
        expected: The module's state dict; only its keys and shapes matter, and its tensors where the file has none.
        names: The file's key of each expected key; an expected key that is not in here is left alone.
        ignored: Keys of the file that are of no use and no fault.
    """
    tensors = dict(expected)
    missing, misshapen = [], []
    for ours, theirs in names.items():
        if theirs not in found:
            missing.append(theirs)
        elif found[theirs].shape != expected[ours].shape:
            misshapen.append(f"{theirs} {tuple(found[theirs].shape)}, expected {tuple(expected[ours].shape)}")
        else:
            tensors[ours] = found[theirs]
    unexpected = found.keys() - set(names.values()) - set(ignored)
    return Conversion(tensors, KeyReport(tuple(sorted(missing)), tuple(sorted(unexpected)), tuple(sorted(misshapen))))


def _shown(keys: tuple[str, ...]) -> str:
    """Join the first keys and count the rest."""
    rest = len(keys) - _SHOWN_KEYS
    return ", ".join(keys[:_SHOWN_KEYS]) + (f", and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class Rule:
    """Rewrites keys that match a whole pattern.

    Attributes:
        pattern: A regular expression with groups.
        template: The new key; ``{0}`` is the first group.
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
