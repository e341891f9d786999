"""What a browser makes of a page: its DOM after layout, and a picture of it."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1")
_PROBE = """<script>
const small = [...document.querySelectorAll('svg.chart text')].map(text => text.getBoundingClientRect().height);
const broken = [...document.images].filter(image => !image.naturalWidth).length;
const cut = [...document.querySelectorAll('.scroll')].filter(
  box => !box.closest('details') && box.scrollWidth > box.clientWidth).length;
const hacked = Number('hacked' in document.body.dataset);
const measures = [innerWidth, document.documentElement.scrollWidth, Math.min(...small), broken, cut, hacked];
parent.postMessage(measures.join(' '), '*');
</script>"""
_FRAME = """<!doctype html><body><script>
addEventListener('message', event => { document.body.dataset.probe = event.data; });
</script><iframe src="probed.html" style="width:WIDTHpx;height:900px;border:0"></iframe></body>"""


@dataclass(frozen=True)
class Layout:
    """Measures of a page [px].

    Attributes:
        window: Width of the window.
        content: Width that the content takes.
        least_text: Height of the smallest letters of the charts.
        broken_images: Images that could not be shown.
        cut_tables: Tables, but for those that are folded, wider than their place, so that one has to scroll.
        hacked: Whether a class name's script has run.
    """

    window: float
    content: float
    least_text: float
    broken_images: int
    cut_tables: int
    hacked: bool


def layout_of(page: Path, folder: Path, width_px: int) -> Layout:
    """Lay a page out, its scripts allowed, so that one that escaped would run."""
    text = page.read_text(encoding="utf-8")
    probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace(
        "</body>", f"{_PROBE}</body>"
    )
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    frame = folder / "frame.html"  # a window of Chromium is never narrower than 500 px, a frame is
    frame.write_text(_FRAME.replace("WIDTH", str(width_px)), encoding="utf-8")
    dom = _run("--window-size=1600,1000", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri())
    window, content, text_px, broken, cut, hacked = re.search(r'data-probe="([^"]*)"', dom).group(1).split()
    return Layout(float(window), float(content), float(text_px), int(broken), int(cut), hacked == "1")


def screenshot(page: Path, target: Path, width_px: int, height_px: int) -> None:
    """Take a picture of a page as it is."""
    _run(f"--window-size={width_px},{height_px}", f"--screenshot={target}", page.as_uri())


def _run(*arguments: str) -> str:
    command = [str(CHROMIUM), *_OPTIONS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
