"""A program around ``run_stage``, to be killed and interrupted: ``python -m tests.pipeline.runner_program --help``."""

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.executors import Compute
from pipeline.shard_runner import Limits, run_stage
from storage_schemas.errors import StorageError
from tests.pipeline.runner_jobs import WriteFiles, planned, watched


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--pause-s", type=float, default=0.02)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--address", default="")
    parser.add_argument("--wait-s", type=float, default=0.0)
    parser.add_argument("--log", default="")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    job = WriteFiles(pause_s=options.pause_s, log=options.log)
    compute = Compute(workers=options.workers, dask_address=options.address)
    print("begun", flush=True)
    try:
        run_stage(
            job,
            planned(options.runs, options.units),
            compute=compute,
            limits=Limits(wait_s=options.wait_s),
            hook=watched(partial(print, flush=True)),
        )
    except (StorageError, PipelineError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
