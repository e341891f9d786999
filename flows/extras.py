"""The project's extras: which modules each of them installs, and what helps where one is missing."""

MODULES: dict[str, tuple[str, ...]] = {
    "pipeline": (
        "contourpy",
        "dask",
        "distributed",
        "fastapi",
        "filelock",
        "httpx",
        "jinja2",
        "lemminflect",
        "markupsafe",
        "matplotlib",
        "nltk",
        "prefect",
        "pyarrow",
        "pydantic",
        "pydantic_core",
        "rich",
        "tensorboard",
        "tomli_w",
        "tqdm",
        "uvicorn",
    ),
    "app": ("gradio", "starlette"),
}
"""Top-level modules by extra, as far as this project imports them."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return what is missing and the command that installs it, or None where no extra has the module."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in MODULES.items():
        if module in modules:
            return f"needs {module}, which is not installed; run: pip install 'ovseg-pipeline[{extra}]'"
    return None
