"""Fail when a function grows past the house limit, or when code outside tests asserts or swallows."""

import ast
import subprocess
import sys
from pathlib import Path

FUNCTION_LINES = 60
FORBIDDEN_MODULE_NAMES = {"utils", "helpers", "misc", "manager", "common"}


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body, its docstring left out."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def faults_in(path: Path) -> list[str]:
    """List what breaks a limit in one Python file, as ``path:line: what``."""
    text = path.read_text(encoding="utf-8")
    in_tests = path.parts[0] == "tests"
    faults = []
    if path.stem in FORBIDDEN_MODULE_NAMES:
        faults.append(f"{path}:1: '{path.stem}' says nothing; name the module after what it holds")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and function_lines(node) > FUNCTION_LINES:
            size = f"{function_lines(node)} lines, at most {FUNCTION_LINES}"
            faults.append(f"{path}:{node.lineno}: {node.name} has {size} are allowed; split the function")
        if isinstance(node, ast.Assert) and not in_tests:
            faults.append(f"{path}:{node.lineno}: assert outside tests; raise an error that says what to do")
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
            faults.append(f"{path}:{node.lineno}: an exception is swallowed")
    return faults


def main() -> int:
    """Check every Python file that git tracks or would track; return the exit status."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [Path(line) for line in listing.stdout.splitlines() if Path(line).exists()]
    faults = [fault for path in paths for fault in faults_in(path)]
    print("\n".join(faults) if faults else f"{len(paths)} files within the size limits")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
