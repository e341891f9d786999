"""The page in the browser: what is asked for on the left, the answer on the right, below each other on a phone."""

import logging
import secrets
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import gradio
from gradio import processing_utils
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from flows.local_server import AllowedHosts
from flows.photo_app.answers import STEPS, TABLE_HEADERS, Answer, LegendEntry, Step, answering
from flows.photo_app.encoded_images import EncodedImages
from flows.photo_app.limits import Limits, hint_of, limits_of
from flows.photo_app.questions import NAMES_MAX, QuestionError, class_names, question, uploaded_file
from ovseg_models.neighbours import Neighbours
from ovseg_models.segmentation import RESULT_ENDINGS, Segmentation
from ovseg_models.segmenter import Segmenter

_LOGGER = logging.getLogger(__name__)
_EVERY_PIXEL, _FIND = "give every pixel one of the names", "find the named things, leave the rest"
_UPLOADS_KEPT_S = 3600
_ASKERS_WAITING_MAX = 32
_ASKERS_AT_ONCE = 8
_OPACITY = 60
_JPEG_SIDE_MAX_PX = 65_000
_DOWNLOADS = ("Label map", "Overlay", "JSON")
_INTRODUCTION = """\
# Segment by names of your own

Choose a photograph and type the names of what is in it. Other names for the same photograph take a
moment only, as the image models don't run again.
"""
_FONTS = [gradio.themes.Font("system-ui"), gradio.themes.Font("sans-serif")]  # of the browser: none is fetched
_CSS, _SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
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
    limits = limits_of(segmenter)

    def ask(photograph: object, names: object, mode: object) -> Iterator[tuple[Any, ...]]:
        as_before = [gradio.skip()] * (4 + len(_DOWNLOADS))
        off = [gradio.DownloadButton(value=None, interactive=False)] * len(_DOWNLOADS)
        try:
            # Gradio's own check covers files with a mark that its pages send; a request without it must not pass.
            path, file_name = uploaded_file(photograph, uploads=Path(get_upload_folder()), examples=examples)
            typed = names if isinstance(names, str) else ""
            yield _working(Step(1, f"{file_name or 'the photograph'} is read")), *as_before
            asked = question(path, file_name, typed, find=mode == _FIND)
            for found in answering(asked, segmenter, images):
                if isinstance(found, Step):
                    yield _working(found), *as_before
                    continue
                _LOGGER.info("%s", found.message)
                warned = _message(found.warning, kind="warning") if found.warning else ""
                rows, pictures = [list(row) for row in found.rows], list(found.pictures)
                yield _message(found.message) + warned, _view(found, limits, view), rows, pictures, found, *off
        except QuestionError as error:
            _LOGGER.info("refused: %s", error)
            yield _message(str(error), kind="fault"), "", [], [], None, *off

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(600, _UPLOADS_KEPT_S)) as page:
        gradio.Markdown(_INTRODUCTION)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):
                photograph, names, mode, button = _question_side(examples, segmenter, limits)
            with gradio.Column(scale=3, min_width=320):
                message = gradio.HTML(_message("The answer appears here."), padding=False, elem_id="message")
                view = gradio.HTML("", padding=False, elem_id="view")
                opacity = gradio.Slider(
                    0, 100, value=_OPACITY, step=1, label="Opacity of the masks, in %", elem_id="opacity"
                )
                with gradio.Row(elem_id="downloads"):
                    files = [gradio.DownloadButton(label, size="sm", interactive=False) for label in _DOWNLOADS]
                table, pictures = _mask_tables()
                shown = gradio.State(None)
                _mask_side(shown, pictures, segmenter, neighbours, memory)
        # In the browser alone: nothing is computed, nothing is sent.
        opacity.change(
            None, [opacity], None, js="(share) => document.documentElement.style.setProperty('--paint', share / 100)"
        )
        asked = gradio.on(
            [button.click, names.submit],
            ask,
            [photograph, names, mode],
            [message, view, table, pictures, shown, *files],
            preprocess=False,  # a file that is no image is refused by us, in words
            show_progress="hidden",  # the message says what is being done
            concurrency_limit=_ASKERS_AT_ONCE,  # the nets see one photograph at a time; others need not wait for them
            api_visibility="private",
        )
        asked.then(
            lambda found: _write(found, files[0]), [shown], files, show_progress="hidden", api_visibility="private"
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
        css=_CSS,
        head=f"<script>{_SCRIPT}</script>",
    )
    return str(address)


def _write(found: Answer | None, component: gradio.Button) -> list[gradio.DownloadButton]:
    """Write what ``ovseg segment`` writes, once the answer is shown.

    Args:
        found: What is shown; None for nothing.
        component: Has the files removed when they are old.
    """
    if found is None:
        return [gradio.DownloadButton(value=None, interactive=False)] * len(_DOWNLOADS)
    json_path = found.result.save(_served_folder(component))
    paths = [json_path.with_name(json_path.name.removesuffix(RESULT_ENDINGS[-1]) + end) for end in RESULT_ENDINGS]
    component.temp_files.update(map(str, paths))
    return [gradio.DownloadButton(value=path, interactive=True) for path in paths]


def _served_folder(component: gradio.blocks.Block) -> Path:
    """Make a folder with a name that nobody guesses, whose files Gradio serves as they are and does not copy."""
    folder = Path(component.GRADIO_CACHE) / secrets.token_urlsafe(16)
    folder.mkdir(parents=True)
    return folder


def _question_side(
    examples: Sequence[Path], segmenter: Segmenter, limits: Limits
) -> tuple[gradio.Image, gradio.Textbox, gradio.Radio, gradio.Button]:
    """Put photograph, names, what to do, and the button on the page."""

    def hint(typed: object) -> str:
        try:
            found = hint_of(segmenter, class_names(typed)) if isinstance(typed, str) and typed.strip() else ""
        except QuestionError as error:
            found = str(error)
        return _message(found, kind="warning") if found else ""

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
    hints = gradio.HTML("", padding=False, elem_id="hint")
    gradio.HTML(_limits(limits), padding=False, elem_id="limits")
    names.change(
        hint,
        [names],
        [hints],
        show_progress="hidden",
        trigger_mode="always_last",
        queue=False,
        api_visibility="private",
    )
    mode = gradio.Radio([_EVERY_PIXEL, _FIND], value=_EVERY_PIXEL, label="What to do", elem_id="mode")
    button = gradio.Button("Segment", variant="primary", elem_id="ask")
    if examples:
        gradio.Examples([[str(path)] for path in examples], [photograph], label="Examples")
    return photograph, names, mode, button


def _mask_tables() -> tuple[gradio.Dataframe, gradio.Gallery]:
    """Put the table and the pictures of masks on the page."""
    table = gradio.Dataframe(
        headers=list(TABLE_HEADERS),
        label="Masks, the best score first",
        interactive=False,
        max_height=320,
        elem_id="table",
    )
    pictures = gradio.Gallery(
        label="The first masks", columns=3, format="png", object_fit="contain", elem_id="pictures"
    )
    return table, pictures


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
            return _message("No mask is chosen; click on one first.", kind="fault")
        try:
            class_name, *others = class_names(name if isinstance(name, str) else "")
            if others:
                raise QuestionError(f"{len(others) + 1} names are typed, one is expected; take the others away.")
            result, query = clicked
            segmenter.remember(class_name, result.encoded, query, source="a click")
        except (ValueError, QuestionError) as error:
            return _message(str(error), kind="fault")
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


def _message(message: str, *, kind: str = "") -> str:
    """Return a message as HTML; whatever the user typed or named stays text.

    Args:
        kind: "fault", "warning", or nothing.
    """
    return f'<div class="{f"message {kind}".strip()}" role="status">{escape(message)}</div>'


def _working(step: Step) -> str:
    """Return what is being done as HTML."""
    text = f"Step {step.number} of {STEPS}: {escape(step.text)}"
    return f'<div class="message working" role="status"><progress></progress>{text}</div>'


def _limits(limits: Limits) -> str:
    """Return what the segmenter can name as HTML."""
    if not limits.words:
        return f'<div class="limits">{escape(limits.summary)}</div>'
    words = escape(", ".join(limits.words))
    return f'<details class="limits"><summary>{escape(limits.summary)}</summary>{words}</details>'


def _view(found: Answer, limits: Limits, component: gradio.HTML) -> str:
    """Return the photograph, its paint and the legend as HTML; both pictures have the photograph's size.

    Args:
        found: What is shown.
        limits: Of the segmenter.
        component: Shows it, and has the files removed when they are old.
    """
    image = found.result.encoded.image
    width, height = image.size
    photograph_format = "jpeg" if max(width, height) <= _JPEG_SIDE_MAX_PX else "png"
    folder = _served_folder(component)
    addresses = []
    for picture, name in ((image, f"photograph.{photograph_format}"), (found.paint, "paint.png")):
        picture.save(folder / name, quality=92)  # which a PNG has not
        component.temp_files.add(str(folder / name))
        addresses.append(f"gradio_api/file={quote(str(folder / name))}")
    legend = "".join(map(_legend_entry, found.legend))
    shown_width = f"min(100%, calc(75vh * {width / height:.6f}), {max(width, 480)}px)"
    return (
        f'<figure class="view"><div class="stack"><div style="width: {shown_width}; aspect-ratio: {width} / {height}">'
        f'<img class="photo" src="{addresses[0]}" alt="{escape(found.file_name)}">'
        f'<img class="paint" src="{addresses[1]}" alt=""><canvas class="only" hidden></canvas></div></div>'
        f"<figcaption><span><bdi>{escape(found.file_name)}</bdi>, {width} x {height} px</span>"
        '<span class="under" role="status"></span></figcaption>'
        f'<div class="legend" aria-label="named classes">{legend}</div>'
        f'<p class="limits">{escape(limits.summary)}</p></figure>'
    )


def _legend_entry(entry: LegendEntry) -> str:
    """Return a named class as HTML: pointing at it fades all else, pointing at the picture prints its name."""
    share = "0%" if not entry.share else "<0.1%" if entry.share < 0.001 else f"{entry.share:.1%}"
    colour = ",".join(map(str, entry.colour))
    without = f" (without {escape(', '.join(entry.unread))})" if entry.unread else ""
    return (
        f'<button type="button" class="{"" if entry.share else "absent"}" data-colour="{colour}" '
        f'data-name="{escape(entry.name)}"><i style="background: rgb({colour})"></i>'
        f"<span><bdi>{escape(entry.name)}</bdi>{without} {escape(share)}</span></button>"
    )


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
