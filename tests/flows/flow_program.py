"""The ``ovseg`` command with the stages of the tests, to be killed and interrupted."""

import sys

import pipeline.dataflow
from flows.command import main
from tests.flows import flow_stages

if __name__ == "__main__":
    pipeline.dataflow.dataflow = flow_stages.small_dataflow
    flow_stages.from_environment()
    sys.exit(main())
