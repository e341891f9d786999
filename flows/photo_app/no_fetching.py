"""Keeps Gradio from fetching what a request names: a visitor must not make this machine ask another one."""

from typing import NoReturn

import gradio
from gradio import processing_utils

_FETCHERS = ("async_ssrf_protected_download", "ssrf_protected_download", "save_url_to_cache")


def refuse_fetching() -> None:
    """Let Gradio refuse every file that a request gives as an address instead of uploading it.

    Gradio downloads such files before it calls any function of the page, as long as the address is a public one. The
    files of a request go through these functions; there is no setting for it.

    Raises:
        AttributeError: If this version of Gradio has no such function, so that nothing would be refused.
    """
    for name in _FETCHERS:
        getattr(processing_utils, name)
        setattr(processing_utils, name, _refused if name.startswith("async_") else _refused_at_once)


async def _refused(url: str, cache_dir: str) -> str:
    """Stand where Gradio downloads a file."""
    _refused_at_once(url, cache_dir)


def _refused_at_once(url: str, cache_dir: str) -> NoReturn:
    """Refuse a download; nothing is looked up."""
    del url, cache_dir
    message = "Addresses are not fetched; upload the photograph."
    raise gradio.Error(message, print_exception=False)
