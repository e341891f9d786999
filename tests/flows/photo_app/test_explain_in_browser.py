"""A click on a mask of the page: the mined pairs that are like it, and a memory of it."""

import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from ovseg_models.memory import Memory
from ovseg_models.segmenter import Segmenter
from pipeline.pair_index import PairIndex, make_index
from tests.flows.photo_app.browser import open_browser
from tests.flows.photo_app.test_page_in_browser import ROOT, ask, pytestmark, upload
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

pytestmark = [*pytestmark]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    Image.fromarray(picture(160, 240, 3)).save(folder / "photo.png")
    segmenter = tiny_segmenter()
    segmenter.save(folder / "model")
    make_index(made_pairs(folder / "runs", 3), segmenter, folder / "index")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    """Serve the page with an index and a memory, and open it."""
    options = ["--model", folder / "model", "--index", folder / "index", "--memory", folder / "m.safetensors"]
    command = list(map(str, [sys.executable, "-m", "flows.command", "app", *options]))
    environment = os.environ | {"TMPDIR": str(folder)}
    with (folder / "app.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    with process, open_browser(folder) as browser:
        shown = process.stdout.readline()
        assert " shows the page" in shown, (folder / "app.log").read_text()
        browser.resize(1280, 900)
        browser.open(shown.split()[0])
        browser.wait_for("document.querySelector('#ask') && document.querySelector('input[type=file]') !== null")
        yield browser
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "Traceback" not in (folder / "app.log").read_text()


def type_into(page, selector, text):
    page.run(
        f"""(() => {{
            const field = document.querySelector({selector!r});
            field.value = {json.dumps(text)};
            field.dispatchEvent(new Event('input', {{bubbles: true}}));
        }})()"""
    )


def test_a_click_on_a_mask_shows_its_nearest_pairs_and_remembers_it(page, folder):
    upload(page, folder / "photo.png")
    ask(page, ", ".join(CLASS_NAMES))
    segmenter = Segmenter.load(folder / "model")
    result = segmenter.segment(folder / "photo.png", CLASS_NAMES)
    shown = sorted(result.found_masks, key=lambda row: -row.score)
    page.wait_for(f"document.querySelectorAll('#pictures button img').length >= {len(shown)}")
    page.run("[...document.querySelectorAll('#pictures button')].filter(each => each.querySelector('img'))[1].click()")
    page.wait_for("document.querySelectorAll('#similar img').length > 0")
    near = segmenter.explain(result, shown[1].query, PairIndex.open(folder / "index"))
    page.wait_for("document.querySelector('#chosen').innerText.includes('Mask 2 is chosen')")
    captions = page.run("document.querySelector('#similar').innerText")
    assert f"{near[0].similarity:.2f} {near[0].noun}" in captions
    type_into(page, "#remember-name textarea, #remember-name input", "<b>boat")
    page.run("document.querySelector('#remember').click()")
    page.wait_for("document.querySelector('#chosen').innerText.includes('is remembered as <b>boat')")
    (mask,) = Memory.load(folder / "m.safetensors").masks
    segmenter.remember("<b>boat", result.encoded, shown[1].query, source="a click")
    assert mask.key == segmenter.memory.masks[0].key
    page.run("document.querySelector('#remember').click()")
    page.wait_for("document.querySelector('#chosen').innerText.includes('is remembered already')")
    page.screenshot(folder / "wide.png")
    page.resize(390, 844, phone=True)
    assert page.run("document.documentElement.scrollWidth") <= 390
