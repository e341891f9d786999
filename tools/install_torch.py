"""Install torch's build for the CPU where no NVIDIA driver is: 0.2 GB to download, where the default build takes 3 GB.

Called by `make install` in a fresh environment, before everything else; so it needs Python and pip alone. The versions
are those of constraints.txt. Where PyTorch's index cannot be reached, or lacks the version, nothing is installed: the
default build comes with the project's other dependencies and works on a CPU, too.
"""

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
INDE = "https://download.pytorch.org/whl/cpu"  # as PyTorch's installation page gives it
CHOICES = ("auto", "cpu", "default")
_SIGNS_OF_A_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/usr/lib/wsl/lib/libcuda.so.1"))


def has_driver() -> bool:
    """Return whether this machine has an NVIDIA driver."""
    return shutil.which("nvidia-smi") is not None or any(path.exists() for path in _SIGNS_OF_A_DRIVER)


def pinned_versions() -> dict[str, str]:
    """Return the versions of torch and torchvision in constraints.txt."""
    return dict(re.findall(r"^(torch|torchvision)==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE))


def main(arguments: list[str]) -> int:
    """Install the CPU build if it is asked for, or fits the machine; return the exit status."""
    choice = arguments[0] if arguments else "auto"
    if choice not in CHOICES:
        print(f"TORCH: found {choice!r}, one of {', '.join(CHOICES)} is expected; correct it", file=sys.stderr)
        return 2
    # On other systems the default build is for the CPU anyway.
    if choice == "default" or (choice == "auto" and (sys.platform != "linux" or has_driver())):
        return 0
    pinned = pinned_versions()
    try:
        installed = version("torch")
    except PackageNotFoundError:
        installed = ""
    if installed.partition("+")[0] == pinned["torch"] and (choice == "auto" or installed.endswith("+cpu")):
        return 0
    # Only torch's own wheels come from PyTorch's index. The version's local part keeps any other build out, whatever
    # else pip is configured for. Where nothing answers, pip gives up at once, and not after five attempts.
    wheels = [f"{name}=={number}+cpu" for name, number in pinned.items()]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "0", "--timeout", "15"]
    done = subprocess.run([*pip, "--index-url", INDE, *wheels], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        print(f"torch {pinned['torch']}: built for CPUs; for a GPU, 'rm -r .venv && make install TORCH=default'")
        return 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["pip failed"]
    reason = errors[0].removeprefix("ERROR: ")
    print(
        f"torch's build for the CPU is not available ({reason}); "
        + ("try again later, or set TORCH=default" if choice == "cpu" else "the default build (3 GB) is installed"),
        file=sys.stderr,
    )
    return 1 if choice == "cpu" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
