"""Names of data sets that stages speak of: each must be one of those that the settings describe."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.settings.faults import fault_line, shown, teller
from pipeline.settings.keys import ANY_ITEM
from pipeline.settings.overrides import Override

_REFERENCES = (
    ("proposal_net", "dataset"),
    ("proposal_net", "validation_dataset"),
    ("mine", "dataset"),
    ("finetune", "validation_dataset"),
    ("evaluate", "datasets", ANY_ITEM, "dataset"),
    ("evaluate", "sweep", "validation_dataset"),
)


def reference_faults(document: Mapping[str, Any], *, source: str, overrides: Sequence[Override] = ()) -> list[str]:
    """List the names of data sets that are not under ``datasets``, one line each.

    Args:
        document: Settings as read, valid or not, so that these faults are told together with all others.
        source: Name of the settings file.
        overrides: Flags that were laid over the file.
    """
    datasets = document.get("datasets")
    known = sorted(datasets) if isinstance(datasets, Mapping) else []
    lines = []
    for reference in _REFERENCES:
        for key, name in _values(document, reference):
            if isinstance(name, str) and name and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f", did you mean '{close[0]}'?" if close else f"; there are {', '.join(known) or 'none'}"
                what = f"is no name under 'datasets'{meant} (got {shown(name)})"
                lines.append(fault_line(key, what, source=teller(key, source, overrides)))
    return lines


def _values(
    document: object, key: Sequence[str], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the values that lie at a key, each with its own key; none where the document has another form."""
    if not key:
        yield above, document
    elif key[0] == ANY_ITEM and isinstance(document, list):
        for place, item in enumerate(document):
            yield from _values(item, key[1:], (*above, str(place)))
    elif isinstance(document, Mapping) and key[0] in document:
        yield from _values(document[key[0]], key[1:], (*above, key[0]))
