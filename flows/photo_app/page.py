"""The page in the browser: what is asked for on the left, the answer on the right, below each other on a phone."""

import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NoReturn

import gradio
from gradio import processing_utils
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from flows.local_server import AllowedHosts
from flows.photo_app.answers import TABLE_HEADERS, Answer, LegendEntry, answer
from flows.photo_app.encoded_images import EncodedImages
from flows.photo_app.questions import NAMES_MAX, QuestionError, class_names, question, uploaded_file
from ovseg_models.neighbours import Neighbours
from ovseg_models.segmentation import Segmentation
from ovseg_models.segmenter import Segmenter

_LOGGER = logging.getLogger(__name__)
_EVERY_PIXEL, _FIND = "give every pixel one of the names", "find the named things, leave the rest"
_UPLOADS_KEPT_S = 3600
_ASKERS_WAITING_MAX = 32
_INTRODUCTION = """\
# Segment by names of your own

Choose a photograph and type the names of what is in it. Other names for the same photograph take a
moment only, as the image models don't run again.
"""
_FONTS = [gradio.themes.Font("system-ui"), gradio.themes.Font("sans-serif")]  # of the browser: none is fetched
CSS = """
.gradio-container { max-width: min(1280px, 100vw) !important; margin: auto; }
#table { max-width: calc(100vw - 4.5rem); overflow-x: auto; }
#message .html-container { padding: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-top: .75rem; }
.legend i { display: inline-block; width: 1em; height: 1em; margin-right: .4em; vertical-align: -.1em; }
@media (max-width: 640px) { #pictures .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; } }
.message { padding: .5rem .75rem; border-radius: .5rem; border: 1px solid var(--border-color-primary); }
.message.fault { border-color: var(--color-red-500, #ef4444); background: rgb(239 68 68 / 10%); font-weight: 600; }
"""
_FETCHERS = ("async_ssrf_protected_download", "ssrf_protected_download", "save_url_to_cache")


def build_page(
    segmenter: Segmenter,
    images: EncodedImages,
    *,
    title: str,
    examples: Sequence[Path] = (),
    neighbours: Neighbours | None = None,
    memory: Path | None = None,
) -> gradio.Blocks:
    """Build the page; it keeps nothing of a user but the uploaded file, for an hour, and ``images``.

    From then on Gradio fetches no address in this process.

    Args:
        images: Encodes photographs and remembers the latest.
        title: Of the browser's tab.
        examples: Photographs to choose from.
        neighbours: Mined pairs, of which a click on a mask shows the nearest; None for none.
        memory: File in which masks are remembered that a user names; None lets nobody do so.
    """
    refuse_fetching()

    def ask(photograph: object, names: object, mode: object) -> tuple[Any, ...]:
        try:
            # Gradio's own check covers files with a mark that its pages send; a request without it must not pass.
            path, file_name = uploaded_file(photograph, uploads=Path(get_upload_folder()), examples=examples)
            typed = names if isinstance(names, str) else ""
            found = answer(question(path, file_name, typed, find=mode == _FIND), segmenter, images)
        except QuestionError as error:
            _LOGGER.info("refused: %s", error)
            return _message(str(error), is_fault=True), None, [], [], None
        _LOGGER.info("%s", found.message)
        return (
            _message(found.message) + _legend(found.legend),
            found.overlay,
            [list(row) for row in found.rows],
            list(found.pictures),
            found,
        )

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(600, _UPLOADS_KEPT_S)) as page:
        gradio.Markdown(_INTRODUCTION)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):
                photograph, names, mode, button = _question_side(examples)
            with gradio.Column(scale=3, min_width=320):
                answer_side = _answer_side()
                shown = gradio.State(None)
                _mask_side(shown, answer_side[-1], segmenter, neighbours, memory)
        gradio.on(
            [button.click, names.submit],
            ask,
            [photograph, names, mode],
            [*answer_side, shown],
            preprocess=False,  # a file that is no image is refused by us, in words
            show_progress="full",
            api_visibility="private",
        )
    page.queue(max_size=_ASKERS_WAITING_MAX, default_concurrency_limit=1, api_open=False)
    return page


def serve(
    page: gradio.Blocks,
    *,
    host: str,
    port: int,
    upload_limit_bytes: int,
    examples: Sequence[Path] = (),
    allowed_hosts: Sequence[str] = (),
) -> str:
    """Serve the page from threads of this process, and return its address; ``page.close()`` ends it.

    Args:
        page: Of `build_page`.
        host: Address to listen on.
        port: Port to listen on; 0 = a free one from 7860 on.
        upload_limit_bytes: Uploads of more are refused.
        examples: Files outside the upload folder that browsers may read.
        allowed_hosts: Further names under which the server is reached.

    Raises:
        OSError: If the port is taken.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        inbrowser=False,
        inline=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        max_file_size=upload_limit_bytes,
        allowed_paths=[str(path.absolute()) for path in examples],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": [Middleware(AllowedHosts, host=host, names=allowed_hosts)]},
        theme=gradio.themes.Default(font=_FONTS, font_mono=_FONTS),
        css=CSS,
    )
    return str(address)


def _question_side(examples: Sequence[Path]) -> tuple[gradio.Image, gradio.Textbox, gradio.Radio, gradio.Button]:
    """Put photograph, names, what to do, and the button on the page."""
    photograph = gradio.Image(
        label="Photograph",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=300,
        elem_id="photograph",
    )
    names = gradio.Textbox(
        label="Class names",
        placeholder="sky, grass, boat",
        info=f"Separated by commas; at most {NAMES_MAX}.",
        elem_id="names",
    )
    mode = gradio.Radio([_EVERY_PIXEL, _FIND], value=_EVERY_PIXEL, label="What to do", elem_id="mode")
    button = gradio.Button("Segment", variant="primary", elem_id="ask")
    if examples:
        gradio.Examples([[str(path)] for path in examples], [photograph], label="Examples")
    return photograph, names, mode, button


def _answer_side() -> list[gradio.Component]:
    """Put message, overlay, table and pictures on the page."""
    return [
        gradio.HTML(_message("The answer appears here."), padding=False, elem_id="message"),
        gradio.Image(
            label="Overlay", interactive=False, format="png", elem_id="overlay", buttons=["download", "fullscreen"]
        ),
        gradio.Dataframe(
            headers=list(TABLE_HEADERS),
            label="Masks, the best score first",
            interactive=False,
            max_height=320,
            elem_id="table",
        ),
        gradio.Gallery(label="The first masks", columns=3, format="png", object_fit="contain", elem_id="pictures"),
    ]


def _mask_side(
    shown: gradio.State,
    pictures: gradio.Component,
    segmenter: Segmenter,
    neighbours: Neighbours | None,
    memory: Path | None,
) -> None:
    """Put on the page what a click on one of the pictures of masks does: its nearest pairs, and a memory of it."""

    def chosen(shown: Answer | None, event: gradio.SelectData) -> tuple[Any, ...]:
        if shown is None or not 0 <= int(event.index) < len(shown.queries):
            return None, "", []
        query = shown.queries[int(event.index)]
        near = [] if neighbours is None else segmenter.explain(shown.result, query, neighbours)
        pictures = [(pair.picture, f"{pair.similarity:.2f} {pair.noun}: {''.join(pair.caption)}") for pair in near]
        return (shown.result, query), _message(f"Mask {int(event.index) + 1} is chosen."), pictures

    def remember(clicked: tuple[Segmentation, int] | None, name: object) -> str:
        if clicked is None or memory is None:
            return _message("No mask is chosen; click on one first.", is_fault=True)
        try:
            class_name, *others = class_names(name if isinstance(name, str) else "")
            if others:
                raise QuestionError(f"{len(others) + 1} names are typed, one is expected; take the others away.")
            result, query = clicked
            segmenter.remember(class_name, result.encoded, query, source="a click")
        except (ValueError, QuestionError) as error:
            return _message(str(error), is_fault=True)
        if segmenter.memory is not None:
            segmenter.memory.save(memory)
        return _message(f"The mask is remembered as {class_name}; segment again to see what it does.")

    clicked = gradio.State(None)
    with gradio.Group(visible=neighbours is not None or memory is not None):
        of_mask = gradio.HTML("", padding=False, elem_id="chosen")
        similar = gradio.Gallery(
            label="Mined pairs like the mask that you click on",
            columns=4,
            format="png",
            object_fit="contain",
            elem_id="similar",
            visible=neighbours is not None,
        )
        with gradio.Row(visible=memory is not None):
            name = gradio.Textbox(label="Remember this mask as", elem_id="remember-name")
            remembering = gradio.Button("Remember", elem_id="remember")
    pictures.select(chosen, [shown], [clicked, of_mask, similar], api_visibility="private")
    remembering.click(remember, [clicked, name], [of_mask], api_visibility="private")


def _message(message: str, *, is_fault: bool = False) -> str:
    """Return a message as HTML; whatever the user typed or named stays text."""
    return f'<div class="message{" fault" if is_fault else ""}" role="status">{escape(message)}</div>'


def _legend(entries: Sequence[LegendEntry]) -> str:
    """Return the classes of the overlay as HTML."""
    lines = (
        f'<span><i style="background: rgb{entry.colour}"></i>{escape(entry.name)} {entry.share:.1%}</span>'
        for entry in entries
    )
    return f'<div class="legend">{"".join(lines)}</div>'


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
    """Refuse a download, before any name is resolved."""
    del url, cache_dir
    message = "Addresses are not fetched; upload the photograph."
    raise gradio.Error(message, print_exception=False)
