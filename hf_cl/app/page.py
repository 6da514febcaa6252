"""The page itself: drop an image, see names and scores, and what an earlier session would have said. Gradio, on this machine alone."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from html import escape

# gradio, with uvicorn and fastapi, is the extra `app`: the type checker may not find them
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported

import gradio as gr  # pyright: ignore[reportMissingImports]
import uvicorn  # pyright: ignore[reportMissingImports]
from fastapi import FastAPI  # pyright: ignore[reportMissingImports]
from PIL import Image

from hf_cl.app.port import HOST, listening
from hf_cl.app.sessions import SessionModels, scores_by_name
from hf_cl.results.display import display_name

TOP = 5
"""Classes shown."""
NARROW = 220
"""Pixels below which a column goes under the one before it."""
KEPT_SECONDS = 600
"""How long gradio keeps an uploaded image in its own folder."""
LARGEST_FILE = "30mb"
CSS = ".gradio-container { max-width: 1100px !important; margin: 0 auto; } #now h2, #then h2 { overflow-wrap: anywhere; }"


def build_page(models: SessionModels, title: str) -> gr.Blocks:
    """The page of an adapter.

    Args:
        models: its sessions.
        title: what the adapter is, in prose.
    """

    def answer(image: Image.Image | None, session: str) -> tuple[dict[str, float] | None, str]:
        if image is None:
            return None, _knows(models, session)
        return scores_by_name(models.predict(session, image, TOP)), _knows(models, session)

    last, earlier = models.names[-1], models.names[:-1]
    with gr.Blocks(title=f"hf_cl: {title}", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.HTML(f"<h1>{escape(display_name(title))}</h1><p>Drop an image. It stays on this machine.</p>")
        with gr.Row():
            with gr.Column(min_width=NARROW):
                image = gr.Image(type="pil", label="Image", sources=["upload", "clipboard"], height=320, buttons=[], elem_id="image")
            with gr.Column(min_width=NARROW):
                now = gr.Dropdown(models.names, value=last, label="Session", elem_id="session", interactive=bool(earlier))
                said_now = gr.Label(num_top_classes=TOP, label="What it says", elem_id="now")
                knows_now = gr.HTML(_knows(models, last), elem_id="knows")
            if earlier:
                with gr.Column(min_width=NARROW):
                    then = gr.Dropdown(models.names, value=earlier[-1], label="Earlier session", elem_id="earlier")
                    said_then = gr.Label(num_top_classes=TOP, label="What it would have said", elem_id="then")
                    knows_then = gr.HTML(_knows(models, earlier[-1]), elem_id="knew")
                gr.on([image.change, then.change], answer, [image, then], [said_then, knows_then], api_visibility="private")
        gr.on([image.change, now.change], answer, [image, now], [said_now, knows_now], api_visibility="private")
    return page


def _knows(models: SessionModels, session: str) -> str:
    number, every = len(models.classes_of(session)), len(models.classes_of(models.names[-1]))
    return f"<p>{escape(session)} knows {number} of {every} classes.</p>"


def serve(page: gr.Blocks, *, port: int | None, open_browser: bool, say: Callable[[str], None]) -> None:
    """Serve the page to this machine until Ctrl-C.

    Not by gradio's `launch`, which asks its own address over whatever proxy there is, and gives up after three seconds.

    Args:
        port: None: the first free one from 7860 on.
        open_browser: show it.
        say: is told the address.

    Raises OSError for a port that is taken.
    """
    with listening(port) as door:
        number = door.getsockname()[1]
        site = gr.mount_gradio_app(
            FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            page,
            path="/",
            server_name=HOST,
            server_port=number,
            footer_links=[],
            run_history=False,
            max_file_size=LARGEST_FILE,
            ssr_mode=False,
            theme=gr.themes.Base(primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
            css=CSS,
        )
        address = f"http://{HOST}:{number}/"
        say(address)
        if open_browser:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(site, log_level="warning")).run(sockets=[door])
