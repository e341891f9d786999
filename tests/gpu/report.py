"""What the tests found on a device, as a block of Markdown to paste into an issue."""

import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

OUTCOMES = ("passed", "failed", "error", "skipped")


class Result(NamedTuple):
    """A test that ran, or why it did not.

    Attributes:
        test: Its name, without the directory.
        outcome: One of `OUTCOMES`.
        found: Figures by their names, ready to be printed.
        message: The first line of the error or the reason to skip.
    """

    test: str
    outcome: str
    found: Mapping[str, object] = {}
    message: str = ""


def machine(device: torch.device) -> dict[str, str]:
    facts = {
        "torch": f"{torch.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    }
    if device.type != "cuda" or not torch.cuda.is_available():
        return facts | {"device": f"{device}, and torch sees no CUDA device" if device.type == "cuda" else str(device)}
    driver = "unknown"
    if tool := shutil.which("nvidia-smi"):  # comes with every driver
        query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        asked = subprocess.run(query, check=False, capture_output=True, text=True)
        driver = (asked.stdout.split() or [driver])[0] if asked.returncode == 0 else driver
    gpu = torch.cuda.get_device_properties(device)
    return facts | {
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, driver {driver}",
        "GPU": f"{torch.cuda.device_count()} x {gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, "
        f"capability {gpu.major}.{gpu.minor}",
    }


def markdown(facts: Mapping[str, str], results: Iterable[Result]) -> str:
    results = list(results)
    counts = Counter(result.outcome for result in results)
    lines = [
        "### `make test-gpu`: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]),
        "",
        *(f"* {name}: {value}" for name, value in facts.items()),
        "",
        "| test | result | found |",
        "|---|---|---|",
    ]
    reasons = Counter(result.message for result in results if result.outcome == "skipped")
    lines += [f"| {count} tests | skipped | {reason} |" for reason, count in reasons.items() if count > 1]
    for result in results:
        if reasons[result.message] > 1:
            continue  # a line for all that have this reason
        found = [f"{name} {_rounded(value)}" for name, value in result.found.items()]
        cells = result.test, result.outcome, "; ".join([*found, *([result.message] if result.message else [])])
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _rounded(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
