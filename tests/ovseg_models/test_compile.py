"""torch.compile takes both image nets as a whole, without graph breaks."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: where tests check shapes of arguments, each check would break a graph.
PROGRAM = """
import torch
from torch._dynamo.utils import counters
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

torch.set_num_threads(1)
segmenter = tiny_segmenter()
expected = segmenter(picture(), CLASS_NAMES, return_scores=True).scores
assert segmenter.compile(backend="eager") is segmenter
found = segmenter(picture(), CLASS_NAMES, return_scores=True).scores
torch.testing.assert_close(found, expected)
assert not counters["graph_break"], counters["graph_break"]
assert counters["stats"]["unique_graphs"] == 2, counters["stats"]  # the proposal net; a layer, for all of them
assert segmenter.clip.state_dict().keys() == tiny_segmenter().clip.state_dict().keys()
"""


@pytest.mark.slow
def test_compiled_nets_have_no_graph_breaks_and_one_code_for_all_layers():
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
