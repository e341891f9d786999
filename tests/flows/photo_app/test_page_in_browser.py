"""The page as a user meets it: ``ovseg app`` in a process of its own, looked at with headless Chromium."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.command import main
from ovseg_models.segmenter import Segmenter
from tests.flows.outside_watch import OUTSIDE, WATCH
from tests.flows.photo_app.browser import chromium, open_browser
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

ROOT = Path(__file__).parents[3]
UPLOAD_LIMIT_MIB = 1
IS_CI = bool(os.environ.get("CI"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not IS_CI and importlib.util.find_spec("gradio") is None, reason="Gradio is not installed; run 'make install'"
    ),
    pytest.mark.skipif(not IS_CI and chromium() is None, reason="there is no browser; install Debian's chromium"),
]

# Starts the command under watch.
WATCHED = f"""{WATCH}
from flows.command import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    (folder / "examples").mkdir()
    for name, seed in (("examples/first.png", 1), ("examples/second.png", 2), ("photo.png", 3)):
        Image.fromarray(picture(160, 240, seed)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "photo.png").read_bytes()[:300])
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    assert (folder / "large.png").stat().st_size > UPLOAD_LIMIT_MIB * 2**20
    tiny_segmenter().save(folder / "model")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """Serve the page; afterwards Ctrl-C must end it quietly, and nothing outside must have been spoken to."""
    options = ["--model", folder / "model", "--examples", folder / "examples", "--max-upload-mib", UPLOAD_LIMIT_MIB]
    command = [sys.executable, "-c", WATCHED, "app", *options]
    environment = os.environ | {"TMPDIR": str(folder / "temporary"), OUTSIDE: str(folder / "outside.log")}
    (folder / "temporary").mkdir()
    with (folder / "app.log").open("w") as log:
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    with process:
        shown = process.stdout.readline()
        assert " shows the page; Ctrl-C ends it" in shown, (folder / "app.log").read_text()
        yield shown.split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not (folder / "outside.log").exists()
    assert not list((folder / "temporary").glob("ovseg-app-*"))
    assert "Traceback" not in (folder / "app.log").read_text()


@pytest.fixture(scope="module")
def browser(folder):
    with open_browser(folder) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    browser.resize(1280, 900)
    browser.open(address)
    browser.wait_for("document.querySelector('#ask') !== null && document.querySelector('input[type=file]') !== null")
    return browser


def status_of(request):
    """Return the HTTP status of what the server answers."""
    try:
        with urllib.request.urlopen(request, timeout=60) as answered:
            return answered.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def upload_request(address, path):
    """Make the request that uploads a file past the page."""
    boundary = "b0undary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    return urllib.request.Request(
        f"{address}gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )


def sent_file(address, path):
    """Upload a file past the page, and return what the server answers."""
    with urllib.request.urlopen(upload_request(address, path), timeout=60) as answered:
        return answered.read()


def upload(page, path):
    page.choose_file("input[type=file]", path)
    page.wait_for("document.querySelector('#photograph img') !== null")


def ask(page, names, *, find=False):
    """Type names, press the button, and return what is printed."""
    page.run(
        f"""(() => {{
            const names = document.querySelector('#names textarea, #names input');
            names.value = {json.dumps(names)};
            names.dispatchEvent(new Event('input', {{bubbles: true}}));
            document.querySelectorAll('#mode input')[{int(find)}].click();
            window.before = document.querySelector('#message .message');
            window.before.classList.add('old');
            document.querySelector('#ask').click();
        }})()"""
    )
    page.wait_for(
        "document.querySelector('#message .message') && !document.querySelector('#message .old, #message .working')"
    )
    return page.run("document.querySelector('#message .message').innerText.trim()")


def shown_rows(page):
    """Return the table's rows that are on screen, as lists of texts."""
    page.wait_for("document.querySelectorAll('#table .virtual-row, #table tbody tr').length > 0")
    return page.run(
        """[...document.querySelectorAll('#table .virtual-row')].map(
            row => [...row.children].map(cell => cell.innerText.trim()))"""
    )


def legend(page):
    """Return the shares of the names that are listed, as texts."""
    entries = page.run(
        """[...document.querySelectorAll('#view .legend button')].map(
            entry => [entry.dataset.name, entry.innerText.trim().split(' ').at(-1)])"""
    )
    return dict(entries)


def test_masks_overlay_and_table_are_shown_and_other_names_are_quick(page, folder):
    upload(page, folder / "photo.png")
    printed = ask(page, ", ".join(CLASS_NAMES))
    expected = Segmenter.load(folder / "model").segment(folder / "photo.png", CLASS_NAMES)
    masks = sorted((row for row in expected.masks if row.area_px), key=lambda row: -row.score)
    assert printed.startswith(f"{len(masks)} masks for 5 names, photograph 240 x 160 px (image models ")
    first = shown_rows(page)[0]
    assert first[:3] == ["1", masks[0].class_name, f"{masks[0].score:.2f}"]
    page.wait_for(f"document.querySelectorAll('#pictures img').length >= {len(masks)}")
    for kind in ("photo", "paint"):
        image = f"document.querySelector('#view .{kind}')"
        page.wait_for(f"{image} && {image}.naturalWidth")
        assert page.run(f"[{image}.naturalWidth, {image}.naturalHeight]") == [240, 160]
    found = {CLASS_NAMES[index] for index in expected.label_map.unique().tolist()}
    assert {name for name, share in legend(page).items() if share != "0%"} == found
    assert set(legend(page)) == set(CLASS_NAMES)
    assert "still in memory" in ask(page, "sky, boat")
    assert "1 mask for 1 name, " in ask(page, "dog", find=True)


def test_the_opacity_slider_asks_nobody(page, folder):
    upload(page, folder / "photo.png")
    ask(page, "sky, boat")
    page.wait_for("document.querySelector('#view .paint').naturalWidth")
    page.wait_for("!document.querySelector('#downloads button[disabled]')")  # the files have come, too
    before = len(page.requests)
    for percent in (25, 0, 100):
        page.run(
            f"""(() => {{
                const slider = document.querySelector('#opacity input[type=range]');
                slider.value = {percent};
                slider.dispatchEvent(new Event('input', {{bubbles: true}}));
            }})()"""
        )
        page.wait_for(f"getComputedStyle(document.querySelector('#view .paint')).opacity === '{percent / 100:g}'")
    assert [request for request in page.requests[before:] if "queue" in request or "run" in request] == []


def test_a_name_fades_all_else_and_the_picture_says_its_names(page, folder):
    upload(page, folder / "photo.png")
    ask(page, ", ".join(CLASS_NAMES))
    page.wait_for("document.querySelector('#view .paint').naturalWidth")
    labels = Segmenter.load(folder / "model").segment(folder / "photo.png", CLASS_NAMES).label_map
    name = CLASS_NAMES[int(labels[80, 120])]
    page.run(
        f"""[...document.querySelectorAll('#view .legend button')].find(each => each.dataset.name === {name!r})
            .dispatchEvent(new Event('pointerover', {{bubbles: true}}))"""
    )
    alpha = page.run(
        """(() => { const only = document.querySelector('#view .only');
            return [...only.getContext('2d').getImageData(0, 0, only.width, only.height).data]
                .filter((_, at) => at % 4 === 3)
        })()"""
    )
    expected = np.where(labels.numpy() == CLASS_NAMES.index(name), 0, 205)
    assert np.array_equal(np.reshape(alpha, (160, 240)), expected)
    page.run(
        """(() => { const box = document.querySelector('#view .paint').getBoundingClientRect();
            document.querySelector('#view .paint').dispatchEvent(new PointerEvent('pointermove', {bubbles: true,
                clientX: box.left + box.width * 120.5 / 240, clientY: box.top + box.height * 80.5 / 160}));
        })()"""
    )
    assert page.run("document.querySelector('#view .under').innerText") == name


def test_the_downloads_are_the_files_that_the_command_writes(page, address, folder, monkeypatch):
    upload(page, folder / "photo.png")
    ask(page, ", ".join(CLASS_NAMES))
    page.wait_for("!document.querySelector('#downloads button[disabled]')")
    links = page.run(
        """(() => { const found = {}, click = HTMLAnchorElement.prototype.click;
            HTMLAnchorElement.prototype.click = function () { found[this.download] = this.href; };
            document.querySelectorAll('#downloads button').forEach(each => each.click());
            HTMLAnchorElement.prototype.click = click;
            return found; })()"""
    )
    monkeypatch.chdir(folder)
    assert main(["segment", "photo.png", "--classes", *CLASS_NAMES, "--model", "model", "--out", "written"]) == 0
    assert sorted(links) == sorted(path.name for path in (folder / "written").iterdir())
    for name, link in links.items():
        with urllib.request.urlopen(link, timeout=60) as answered:
            assert answered.read() == (folder / "written" / name).read_bytes(), name


def test_names_that_the_model_does_not_know_are_said_before_they_are_asked_for(page):
    assert "knows 6 words" in page.run("document.querySelector('#limits').innerText")
    page.run(
        """(() => { const names = document.querySelector('#names textarea, #names input');
            names.value = 'cat, excavator'; names.dispatchEvent(new Event('input', {bubbles: true})); })()"""
    )
    page.wait_for("document.querySelector('#hint').innerText.includes('does not know: excavator')")


def test_faults_are_reported_in_words(page, folder):
    assert ask(page, "sky") == "No photograph is chosen; upload one, or take one of the examples."
    page.choose_file("input[type=file]", folder / "broken.png")
    page.wait_for("document.querySelector('#photograph img') !== null")
    assert ask(page, "sky") == "broken.png cannot be read as an image; a whole JPEG, PNG, WebP or the like is expected."
    assert page.run("document.querySelector('#message .fault') !== null")


def test_missing_names_are_reported(page, folder):
    upload(page, folder / "photo.png")
    assert ask(page, " , ").startswith("No class names are typed; write names such as")
    assert "still in memory" in ask(page, "cat <img src=x onerror=alert(1)>")
    assert page.run("document.querySelector('#table img') === null")


def test_a_file_that_is_too_large_is_refused(page, folder):
    page.choose_file("input[type=file]", folder / "large.png")
    page.wait_for("/maximum allowed size|too large/i.test(document.body.innerText)")


def test_a_large_upload_past_the_page_is_refused(address, folder):
    request = upload_request(address, folder / "large.png")
    assert status_of(request) == 413


def test_files_of_the_server_are_not_given_away(address, folder):
    for path in (folder / "model" / "segmenter.json", folder / "photo.png", "/etc/passwd"):
        assert status_of(f"{address}gradio_api/file={path}") in {403, 404}


def answer_to(address, data, session):
    """Send a hand-made question past the page, and return the event that ends it."""
    with urllib.request.urlopen(f"{address}config", timeout=60) as answered:
        config = json.load(answered)
    [asking] = [each["id"] for each in config["dependencies"] if len(each["inputs"]) == len(data)]
    body = json.dumps({"data": data, "fn_index": asking, "session_hash": session}).encode()
    joining = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    assert status_of(joining) == 200
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}", timeout=60) as events:
        for line in events:
            event = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
            if event.get("msg") == "process_completed":
                return event
    pytest.fail("the question was never answered")


ADDRESS = {"path": "http://photographs.example.com/a.png", "meta": {"_type": "gradio.FileData"}}
EVERY_PIXEL = "give every pixel one of the names"


@pytest.mark.parametrize(
    "data", [[ADDRESS, "sky", EVERY_PIXEL], [None, ADDRESS, EVERY_PIXEL], [None, "sky", [ADDRESS]]]
)
def test_an_address_in_a_hand_made_question_is_not_fetched(data, address, folder):
    event = answer_to(address, data, f"fetch{data.index(ADDRESS) if ADDRESS in data else 2}")
    assert not event["success"]
    assert event["output"]["error"] == "Addresses are not fetched; upload the photograph."
    assert not (folder / "outside.log").exists()


def test_an_address_beside_an_uploaded_file_is_not_fetched(address, folder):
    uploaded = json.loads(sent_file(address, folder / "photo.png"))[0]
    event = answer_to(address, [ADDRESS | {"path": uploaded, "url": ADDRESS["path"]}, "sky", EVERY_PIXEL], "beside")
    assert "masks for 1 name" in event["output"]["data"][0]
    assert not (folder / "outside.log").exists()


def test_a_hand_made_question_without_an_address_is_answered(address):
    event = answer_to(address, [None, "sky", EVERY_PIXEL], "plain")
    assert event["success"]
    assert "No photograph is chosen" in event["output"]["data"][0]


def test_other_files_of_this_machine_are_not_read(address, folder):
    """Without the mark ``meta``, which Gradio's own check goes by; nor does a pipe stop the page for everyone."""
    (folder / "elsewhere").mkdir()
    os.mkfifo(folder / "elsewhere" / "pipe.png")
    (folder / "elsewhere" / "link.png").symlink_to(folder / "examples" / "first.png")
    for number, name in enumerate(("photo.png", "elsewhere/pipe.png", "elsewhere", "app.log")):
        event = answer_to(address, [{"path": str(folder / name)}, "sky", EVERY_PIXEL], f"file{number}")
        assert "was not uploaded here" in event["output"]["data"][0], name
    linked = answer_to(address, [{"path": str(folder / "elsewhere" / "link.png")}, "sky", EVERY_PIXEL], "linked")
    assert "masks for 1 name" in linked["output"]["data"][0]  # what it leads to is offered


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_pages_of_other_addresses_are_not_answered(headers, address):
    assert status_of(urllib.request.Request(f"{address}config", headers=headers)) == 403
    assert status_of(urllib.request.Request(f"{address}config", headers={"Origin": address.rstrip("/")})) == 200


def test_an_example_can_be_chosen(page):
    page.wait_for("document.querySelectorAll('.gallery img, .gallery-item img').length >= 2")
    page.run("document.querySelector('.gallery-item').click()")
    page.wait_for("document.querySelector('#photograph img') !== null")
    assert "masks for 2 names" in ask(page, "sky, boat")


def test_the_page_fits_a_phone(page, folder):
    page.resize(390, 844, phone=True)
    upload(page, folder / "photo.png")
    ask(page, ", ".join(CLASS_NAMES))
    shown_rows(page)
    assert page.run("document.documentElement.scrollWidth") <= 390


def test_the_page_asks_nobody_else_for_anything(page, address):
    others = [request for request in page.requests if not request.startswith((address, "data:", "blob:", "about:"))]
    assert len(page.requests) > 20
    assert others == []
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
