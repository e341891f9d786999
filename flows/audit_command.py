"""``ovseg pairs audit``: a page on which a person looks at pairs, and the precision that follows."""

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from storage_schemas.artifact import Artifact


def audit_pairs(
    pairs: Annotated[Path, tyro.conf.Positional],
    *,
    count: int = 200,
    seed: int = 0,
    scenes: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    port: Annotated[int, tyro.conf.arg(metavar="0..65535")] = 0,
    summary: bool = False,
) -> None:
    """Look at pairs one by one in the browser, and learn how many are right.

    The page shows a picture with its mask, the crop, and the caption with the noun marked; R, M, N, X, S say right,
    wrong mask, wrong noun, names nothing, skip, and U goes back. Pairs are drawn by lot from parts of the scores, the
    areas and the nouns' frequencies. Each verdict is on the disk at once, in audit/ of the pairs; the same command goes
    on where it ended. Ctrl-C ends it, prints the precision with its 95 % interval, and writes it into the card.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.
        count: Pairs to look at; pairs that are skipped are replaced.
        seed: Of the draw.
        scenes: Directory of the scenes that the pairs were mined from, where they are not in the same runs directory.
        port: Port of 127.0.0.1 to listen on; 0 = a free one.
        summary: Print the precision and write the card, without a page.

    Raises:
        PipelineError: If the directory holds no pairs or verdicts of another seed, a value is out of range, or the
            port is taken.
    """
    for option, value, most in (("--count", count, None), ("--port", port + 1, 65536)):
        if value < 1 or (most is not None and value > most):
            found, expected = (count, "at least 1") if most is None else (port, "0 (a free one) to 65535")
            raise PipelineError(f"{option}: found {found}, {expected} is expected; give another one")
    from pipeline.audit.audit import Audit
    from storage_schemas.artifact import Artifact

    artifact = Artifact.open(pairs, kind="pairs")
    audit = Audit(artifact, None if summary else _scenes(artifact, scenes), count=count, seed=seed)
    with audit.opened():
        if not summary:
            from flows.pair_audit.server import served
            from flows.prefect_server import address_of, listening

            ended = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: ended.set())
            with listening(port) as listener, served(audit, listener):
                sys.stdout.write(f"{address_of(listener)}/ shows the pairs; Ctrl-C ends it\n")
                sys.stdout.flush()
                ended.wait()
    findings = audit.findings()
    if findings is None:
        sys.stdout.write(f"{pairs}: no verdict yet\n")
        return
    from pipeline.audit.precision import in_lines
    from pipeline.mine.card import make_card

    make_card(artifact)
    width = max(len(name) for name, *_ in in_lines(findings))
    for name, share, interval, verdicts in in_lines(findings):
        sys.stdout.write(f"{name:{width}}  {share:>6}  95 %: {interval:>16}  {verdicts} pairs\n")
    sys.stdout.write(f"{pairs / 'README.md'}\n")


def _scenes(pairs: "Artifact", given: Path | None) -> "Artifact | None":
    """Return the scenes of pairs; None for pairs of a file, which have none here.

    Raises:
        PipelineError: If they are not found, or those given are other ones.
    """
    from pipeline.scenes_of_pairs import scenes_of
    from storage_schemas.artifact import Artifact

    if given is None and not {"scenes", "pairs"} & pairs.identity.inputs.keys():
        return None
    return scenes_of(pairs, None if given is None else Artifact.open(given))
