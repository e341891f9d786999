"""``ovseg app`` from the command line's side; the page itself is tested in photo_app."""

import os
import socket
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from flows import app_command, local_server
from flows.app_command import app
from pipeline.errors import PipelineError
from tests.tiny_segmenter import picture, tiny_segmenter


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "segmenter"
    tiny_segmenter().save(folder)
    return folder


@pytest.fixture(autouse=True)
def _with_gradio(monkeypatch):
    """Let no test depend on whether Gradio is there, nor start it."""
    monkeypatch.setattr(app_command.importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, "flows.photo_app.page", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, r"--port: found 70000, 0 \(a free one\) to 65535 is expected"),
        ({"port": -1}, "--port: found -1"),
        ({"max_upload_mib": 0}, "--max-upload-mib: found 0, at least 1 is expected"),
        ({"memory_mib": -5}, "--memory-mib: found -5, at least 1 is expected"),
    ],
)
def test_values_out_of_range_are_refused(options, message, model):
    with pytest.raises(PipelineError, match=message):
        app(model=model, **options)


def test_an_address_of_another_machine_is_refused_at_once(model):
    with pytest.raises(
        PipelineError, match=r"--host 192\.0\.2\.1 --port 0: cannot be listened on \(.+\); give an address"
    ):
        app(model=model, host="192.0.2.1")  # set aside for documentation: no machine has it


def test_a_port_that_is_taken_is_refused(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PipelineError, match=rf"--port {port}: cannot be listened on \(Address already in use\)"):
            app(model=model, port=port)


def test_a_missing_extra_is_reported_with_the_command_that_installs_it(model, monkeypatch):
    monkeypatch.setattr(app_command.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PipelineError, match=r"Gradio is not installed; run: pip install 'ovseg-pipeline\[app\]'"):
        app(model=model)


def test_a_segmenter_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PipelineError, match=r"absent/segmenter\.json: there is no such file"):
        app(model=tmp_path / "absent")


def test_examples_must_be_a_folder_with_photographs(model, tmp_path):
    with pytest.raises(PipelineError, match=r"--examples: .*absent is no folder"):
        app(model=model, examples=tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(PipelineError, match=r"--examples: .* holds no \.jpeg, \.jpg, \.png, \.webp"):
        app(model=model, examples=tmp_path)


@pytest.fixture
def served(monkeypatch):
    """Take what a page would be served with, in place of Gradio; the address then turns out to be taken."""
    found = {}

    def serve(_page, **arguments):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        found.update(arguments, environment=dict(os.environ), folder=folder, is_there=folder.is_dir())
        raise OSError("in use")

    page = ModuleType("flows.photo_app.page")
    page.build_page, page.serve = lambda *_, **__: None, serve
    monkeypatch.setitem(sys.modules, "flows.photo_app.page", page)
    return found


def test_the_first_examples_by_name_are_taken(model, tmp_path, served):
    for number in range(14):
        Image.fromarray(picture()).save(tmp_path / f"{number:02}.png")
    with pytest.raises(PipelineError, match="cannot be listened on"):
        app(model=model, examples=tmp_path)
    assert [path.name for path in served["examples"]] == [f"{number:02}.png" for number in range(12)]


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("lab-7", False)],
)
def test_addresses_of_this_machine_alone(host, is_loopback):
    assert local_server.is_loopback(host) == is_loopback


def test_uploads_lie_in_a_folder_that_is_removed_and_telemetry_is_off(model, served, monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "no_proxy"):
        monkeypatch.setenv(name, "")  # undone after the test
    monkeypatch.setenv("NO_PROXY", "intranet")
    with pytest.raises(PipelineError, match="cannot be listened on"):
        app(model=model)
    environment = served["environment"]
    assert served["is_there"]
    assert not served["folder"].exists()
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environment["NO_PROXY"] == environment["no_proxy"] == "intranet,127.0.0.1,localhost,::1"
