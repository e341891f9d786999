"""``ovseg evaluate --ablate`` killed by SIGKILL at random moments goes on, and ends with the bytes of a calm run."""

import multiprocessing
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from flows.command import main
from pipeline.settings import Settings, settings_toml
from pipeline.stages import run
from tests.pipeline.evaluate.small_world import settings_of, small_net, write_net
from tests.pipeline.planned import artifact_of, prepare_scenes

KINDS = ("branches", "scores", "reports")
KILLS = 6


def run_command(config: str) -> None:
    """What a process does."""
    sys.exit(main(["evaluate", "--config", config, "--ablate"]))


def ready(runs: Path) -> Settings:
    """Make what the stage reads."""
    sweep = {"ensemble_weights": [0.0, 0.5], "mask_thresholds": [0.5]}
    settings = settings_of(runs, sweep=sweep, prompt_templates="single", bootstrap_rounds=5)
    prepare_scenes(settings, ["drawn"])
    write_net(artifact_of(settings, "proposal_net"), small_net())
    return settings


def names_in(runs: Path) -> set[str]:
    """List what lies in the stage's artifacts; of what belongs to this machine alone, too."""
    return {str(path.relative_to(runs)) for kind in KINDS for path in (runs / kind).glob("*/**/*")}


def result_of(runs: Path) -> dict[str, bytes]:
    """Read the stage's artifacts, without what belongs to this machine alone, and pages, which say when they were made.

    A page stays in the result by its name.
    """
    files = {name: runs / name for name in names_in(runs) if "/_local" not in name}
    return {
        name: b"" if path.name == "report.html" else path.read_bytes() for name, path in files.items() if path.is_file()
    }


def done_in(runs: Path) -> int:
    """Count the units and artifacts that are done."""
    return sum(name.endswith(".json") and not name.endswith("/artifact.json") for name in names_in(runs))


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    run("evaluate", ready(tmp_path / "calm"), ablate=True)
    calm = result_of(tmp_path / "calm")
    runs, config = tmp_path / "killed", tmp_path / "run.toml"
    config.write_text(settings_toml(ready(runs)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not at each start
    chance, done = random.Random(8), [0]
    for _ in range(KILLS):
        before, expected = names_in(runs), done[-1] + chance.randint(0, 2)
        process = context.Process(target=run_command, args=(str(config),))
        process.start()
        while process.is_alive() and (done_in(runs) < expected or names_in(runs) <= before):
            time.sleep(0.001)
        process.join(chance.uniform(0, 0.05))
        assert process.exitcode is None, "the run ended before the kill"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        done.append(done_in(runs))
    assert done == sorted(done)
    assert len(set(done)) >= 4, f"kills came after {done} units"
    assert not list(runs.glob("reports/*/manifest.json"))
    last = context.Process(target=run_command, args=(str(config),))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert result_of(runs) == calm
