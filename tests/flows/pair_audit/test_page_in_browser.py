"""The page of an audit as a person meets it: ``ovseg pairs audit`` in a process of its own, in headless Chromium."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage_schemas.verdicts import read_verdicts
from tests.flows.photo_app.browser import chromium, open_browser
from tests.pipeline.finetune.made_pairs import made_pair, made_pairs

ROOT = Path(__file__).parents[3]
COUNT = 14
HOSTILE = "<img src=x onerror=alert(1)>" + "w" * 120
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("CI") and chromium() is None, reason="there is no browser; install Debian's chromium"
    ),
]


def hostile_pair():
    """Make a pair whose noun is markup, and longer than any line."""
    image, mask = np.full((300, 900, 3), 90, np.uint8), np.zeros((300, 900), bool)
    mask[50:250, 20:880] = True
    caption = f"a {HOSTILE} on a table"
    pair = made_pair("zz-hostile-000", image, mask, HOSTILE)
    return replace(pair, caption=caption, caption_id=1, noun_start=2, noun_end=2 + len(HOSTILE), noun_text=HOSTILE)


@pytest.fixture
def pairs(tmp_path):
    """Write twelve pairs and more, all of which are looked at."""
    return made_pairs(tmp_path / "runs", 2, more=[hostile_pair()])


@pytest.fixture
def served(pairs, tmp_path):
    """Serve the page; afterwards Ctrl-C ends it, prints the precision, and the card has it."""
    command = [sys.executable, "-m", "flows.command", "pairs", "audit", str(pairs.directory), "--count", str(COUNT)]
    with (tmp_path / "audit.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        shown = process.stdout.readline()
        assert " shows the pairs; Ctrl-C ends it" in shown, (tmp_path / "audit.log").read_text()
        yield shown.split()[0], process
        if process.poll() is not None:  # killed by the test
            return
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
        assert process.wait(60) == 0, (tmp_path / "audit.log").read_text()
    if verdicts := read_verdicts(pairs):
        right = sum(verdict.verdict == "right" for verdict in verdicts)
        assert printed.startswith("all ")
        assert f"{len(verdicts)} of " in printed.splitlines()[0]
        text = (pairs.directory / "README.md").read_text()
        assert "## Audit" in text
        assert (f"| all | {right / len(verdicts):.1%}" in text) or right not in {0, len(verdicts)}
    else:
        assert printed == f"{pairs.directory}: no verdict yet\n"
    assert "Traceback" not in (tmp_path / "audit.log").read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def press(page, key, then):
    """Press a key of the keyboard, and wait for what the page shows then."""
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" and len(key) == 1 else "")
    page.wait_for(then)


def count_is(text):
    return f"document.querySelector('#count').textContent.startsWith({text!r})"


def is_drawn(page):
    """Wait until both pictures are drawn."""
    page.wait_for("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_keys_judge_pair_after_pair_at_two_widths(served, pairs, browser, tmp_path):
    address, _ = served
    expected = min(COUNT, pairs.manifest().counts["ok"])
    seen, keys = [], "rmnxr"
    verdicts = {"r": "right", "m": "wrong mask", "n": "wrong noun", "x": "names nothing", "s": "skip"}
    browser.resize(1280, 900)
    browser.open(address)
    browser.wait_for(count_is(f"0 of {expected} pairs judged"))
    for number in range(expected):
        if number == 3:
            browser.resize(390, 844, phone=True)
        is_drawn(browser)
        seen.append(browser.run("document.querySelector('#facts').textContent.split(' · ').at(-1)"))
        assert browser.run("document.documentElement.scrollWidth") <= (390 if number >= 3 else 1280)
        noun = browser.run("document.querySelector('#noun').textContent")
        assert noun == browser.run("document.querySelector('#caption mark').textContent")
        press(browser, keys[number % 5], count_is(f"{number + 1} of {expected} pairs judged"))
        assert [(each.pair, each.verdict) for each in read_verdicts(pairs)] == [
            (pair, verdicts[keys[place % 5]]) for place, pair in enumerate(seen)
        ]
    assert len(set(seen)) == expected
    assert browser.run("!document.querySelector('#done').hidden && document.querySelector('#pair').hidden")
    press(browser, "u", count_is(f"{expected - 1} of {expected} pairs judged"))
    assert browser.run("document.querySelector('#facts').textContent").endswith(seen[-1])
    press(browser, "r", count_is(f"{expected} of {expected} pairs judged"))
    browser.resize(1280, 900)
    assert browser.run("document.querySelector('#precision').textContent").startswith("right: ")


def test_buttons_do_the_same_and_texts_of_the_data_set_stay_texts(served, pairs, browser):
    address, _ = served
    browser.resize(390, 844, phone=True)
    browser.open(address)
    browser.wait_for("!document.querySelector('#pair').hidden")
    number, found = 0, False
    while browser.run("document.querySelector('#done').hidden"):
        if browser.run("document.querySelector('#noun').textContent") == HOSTILE:
            found = True
            assert browser.run("document.images.length") == 2
            assert browser.run("document.querySelector('#caption').textContent") == f"a {HOSTILE} on a table"
            assert browser.run("document.documentElement.scrollWidth") <= 390
        number += 1
        browser.run("document.querySelector('button[data-verdict=\"wrong mask\"]').click()")
        browser.wait_for(count_is(f"{number} of"))
    assert found
    assert {verdict.verdict for verdict in read_verdicts(pairs)} == {"wrong mask"}
    others = [request for request in browser.requests if not request.startswith((address, "data:", "about:", "http"))]
    assert others == []


def test_a_killed_page_goes_on_where_it_was(served, pairs, browser, tmp_path):
    """The verdict is on the disk when the page shows the next pair."""
    address, process = served
    browser.resize(1280, 900)
    browser.open(address)
    browser.wait_for("!document.querySelector('#pair').hidden")
    press(browser, "r", count_is("1 of"))
    press(browser, "s", "document.querySelector('#count').textContent.includes('1 skipped')")
    kept = read_verdicts(pairs)
    assert [verdict.verdict for verdict in kept] == ["right", "skip"]
    following = browser.run("document.querySelector('#facts').textContent.split(' · ').at(-1)")
    command = [sys.executable, "-m", "flows.command", "pairs", "audit", str(pairs.directory), "--count", str(COUNT)]
    second = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert second.returncode != 0
    assert "held by" in second.stderr
    process.kill()
    process.wait()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as again:
        browser.open(again.stdout.readline().split()[0])
        browser.wait_for("!document.querySelector('#pair').hidden")
        assert browser.run("document.querySelector('#facts').textContent").endswith(following)
        assert read_verdicts(pairs) == kept
        again.terminate()
        assert "1 of " in again.stdout.read()
        assert again.wait(60) == 0


def answer(address, path="state", *, data=None, **headers):
    """Ask past the page; return the HTTP status and the text."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(f"{address}{path}", body, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answered:
            return answered.status, answered.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_other_pages_and_wrong_requests_are_refused(served, pairs):
    address, _ = served
    status, text = answer(address)
    assert status == 200
    said = {"pair": json.loads(text)["pair"]["pair"], "verdict": "right"}
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert answer(address, "verdict", data=said, **headers)[0] == 403
        assert answer(address, **headers)[0] == 403
    assert answer(address, "verdict", data={**said, "verdict": "perhaps"})[0] == 422
    assert answer(address, "verdict", data={**said, "pair": "../x"})[0] == 409
    assert answer(address, "crop/none")[0] == 409
    assert answer(address, "docs")[0] == 404
    assert answer(address, "verdict", data=said)[0] == 200
    assert [verdict.pair for verdict in read_verdicts(pairs)] == [said["pair"]]
