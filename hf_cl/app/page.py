"""The page itself, in gradio, on this machine alone: ask about one picture or several, look at the classes, teach."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

# gradio, with uvicorn and fastapi, is the extra `app`: the type checker may not find them
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported

import gradio as gr  # pyright: ignore[reportMissingImports]
import uvicorn  # pyright: ignore[reportMissingImports]
from fastapi import FastAPI  # pyright: ignore[reportMissingImports]
from PIL import Image

from hf_cl.app.class_cards import class_cards, small, table_of
from hf_cl.app.lessons import Lessons
from hf_cl.app.port import HOST, listening
from hf_cl.app.samples import write_samples
from hf_cl.app.sessions import SessionModels, scores_by_name, sessions_of
from hf_cl.errors import DataError
from hf_cl.pictures import open_image
from hf_cl.results.display import display_name
from hf_cl.results.saved_run import read_run

TOP = 5
"""Classes shown."""
NARROW = 220
"""Pixels below which a column goes under the one before it."""
WIDE = 160
"""Longer side in pixels of one of several pictures."""
KEPT_SECONDS = 600
"""How long gradio keeps an uploaded image in its own folder."""
LARGEST_FILE = "30mb"
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto; }
.gradio-container main, .gradio-container .tabs { width: 100% !important; }
button[role=tab].selected { color: var(--primary-700) !important; }
.dark button[role=tab].selected { color: var(--primary-300) !important; }
button.primary { background: var(--primary-700) !important; color: white !important; }
.or { color: var(--body-text-color) !important; }
.answer h2 { text-align: center; overflow-wrap: anywhere; margin: 0.4em 0; }
.answer ul { list-style: none !important; padding: 0 !important; margin: 0 !important; }
.answer li { display: flex; justify-content: space-between; padding: 4px 0 5px !important; margin: 0 0 4px !important; }
.answer li { background: linear-gradient(var(--primary-300), var(--primary-300)) bottom left / var(--share, 0) 3px no-repeat; }
#class-table, #class-table th, #class-table td { border: none !important; }
#class-table th, #class-table td { text-align: left; padding: 4px 16px 4px 0 !important; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; } .pictures figcaption { text-align: center; }
#class-table img { margin: 0 4px 0 0 !important; }
"""


class Desk:
    """What the page works on: the sessions of an adapter, and the run they belong to, if it is one here."""

    def __init__(self, adapter: str) -> None:
        self.adapter = adapter
        self.models = SessionModels(sessions_of(adapter))
        self.folder = Path(adapter) if (Path(adapter) / "results.json").is_file() else None

    def reload(self) -> None:
        """After a lesson there is a session more."""
        self.models = SessionModels(sessions_of(self.adapter))

    def knows(self, session: str) -> str:
        """How many classes a session knows, as HTML."""
        number, every = len(self.models.classes_of(session)), len(self.models.classes_of(self.models.names[-1]))
        return f"<p>{escape(session)} knows {number} of {every} classes.</p>"

    def answer(self, image: Image.Image | None, session: str) -> tuple[str, str]:
        """Scores of one picture, and what the session knows, as HTML."""
        if image is None:
            return "", self.knows(session)
        predictions, unknown = self.models.judge(session, image, TOP)
        return answer_of(scores_by_name(predictions), unknown=unknown), self.knows(session)

    def name_of(self, image: Image.Image | None, session: str) -> list[dict[str, Any]]:
        """For programs: the best classes, best first, as `{"name": ..., "score": ...}`."""
        if image is None:
            raise gr.Error("Give a picture.")
        return [{"name": one.name, "score": one.score} for one in self.models.predict(session, image, TOP)]

    def several(self, files: list[str] | None, session: str) -> str:
        """Pictures with what the model says of each, as HTML."""
        shown = []
        for file in files or []:
            try:
                image = open_image(file)
            except DataError as error:
                gr.Warning(str(error))
                continue
            (name, score), *_ = scores_by_name(self.models.predict(session, image, 1)).items()
            said = escape(f"{name} {100 * score:.0f} %")
            shown.append(
                f'<figure><img src="{small(image, WIDE)}" alt="{escape(Path(file).name)}"><figcaption>{said}</figcaption></figure>'
            )
        return f'<div class="pictures">{"".join(shown)}</div>'


def answer_of(scores: Mapping[str, float], *, unknown: bool = False) -> str:
    """The best class large, or that it is none of them, and the scores of all under it."""
    shares = [(escape(name), f"{100 * score:.0f}") for name, score in scores.items()]
    rows = "".join(f'<li style="--share: {share}%"><span>{name}</span><span>{share} %</span></li>' for name, share in shares)
    best = escape(next(iter(scores)))
    if unknown:
        return f'<div class="answer"><h2 class="best">None of these</h2><p>nearest: {best}</p><ul>{rows}</ul></div>'
    return f'<div class="answer"><h2 class="best">{best}</h2><ul>{rows}</ul></div>'


def build_page(adapter: str, title: str) -> gr.Blocks:
    """The page of an adapter.

    Args:
        adapter: a run folder, an adapter's folder, or a Hub id.
        title: what the adapter is, in prose.

    Raises ValueError as `SessionModels` and `sessions_of`.
    """
    desk = Desk(adapter)
    with gr.Blocks(title=f"hf_cl: {title}", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.HTML(f"<h1>{escape(display_name(title))}</h1><p>Drop a picture. It stays on this machine.</p>")
        with gr.Tab("One picture"):
            now = _one_picture(desk)
        with gr.Tab("Several pictures"):
            files = gr.File(file_count="multiple", file_types=["image"], label="Pictures", elem_id="files")
            shown = gr.HTML(elem_id="several")
            gr.on([files.change, now.change], desk.several, [files, now], [shown], api_visibility="private")
        if desk.folder is not None:
            with gr.Tab("Classes"):
                table = gr.HTML(table_of(class_cards(read_run(desk.folder))), elem_id="classes")
            with gr.Tab("Teach"):
                _teach(desk, desk.folder, table, now)
    return page


def _one_picture(desk: Desk) -> gr.Dropdown:
    names = desk.models.names
    last, earlier = names[-1], names[:-1]
    with gr.Row():
        with gr.Column(min_width=NARROW):
            image = gr.Image(type="pil", label="Image", sources=["upload", "webcam", "clipboard"], height=320, buttons=[], elem_id="image")
        with gr.Column(min_width=NARROW):
            now = gr.Dropdown(names, value=last, label="Session", elem_id="session", interactive=bool(earlier))
            said_now = gr.HTML(label="What it says", show_label=True, container=True, min_height=240, elem_id="now")
            knows_now = gr.HTML(desk.knows(last), elem_id="knows")
        if earlier:
            with gr.Column(min_width=NARROW):
                then = gr.Dropdown(names, value=earlier[-1], label="Earlier session", elem_id="earlier")
                said_then = gr.HTML(label="What it would have said", show_label=True, container=True, min_height=240, elem_id="then")
                knows_then = gr.HTML(desk.knows(earlier[-1]), elem_id="knew")
            gr.on([image.change, then.change], desk.answer, [image, then], [said_then, knows_then], api_visibility="private")
    gr.on([image.change, now.change], desk.answer, [image, now], [said_now, knows_now], api_visibility="private")
    ask, said = gr.Button(visible=False), gr.JSON(visible=False)
    ask.click(desk.name_of, [image, now], [said], api_name="predict", api_description="The best classes of a picture after a session.")
    samples = write_samples(desk.folder) if desk.folder is not None else []
    if samples:
        names_of = [name for _, name in samples]
        gr.Examples([[str(path)] for path, _ in samples], [image], example_labels=names_of, label="Test pictures of the run")
    return now


def _teach(desk: Desk, folder: Path, table: gr.HTML, now: gr.Dropdown) -> None:
    try:
        lessons = Lessons(folder)
    except ValueError as error:
        gr.HTML(f"<p>{escape(str(error))}</p>")
        return
    gr.HTML(
        "<p>Collect pictures under the name of a class, new or known, then let it learn: the run goes on with one more session, as "
        "<code>--resume auto</code> does on a grown folder. The pictures are copied into the folder that the run was trained on; one in "
        "five of a class is kept to test with.</p>"
    )
    with gr.Row():
        with gr.Column(min_width=NARROW):
            name = gr.Dropdown(lessons.classes, value=None, label="Class", allow_custom_value=True, elem_id="lesson-class")
            pictures = gr.File(file_count="multiple", file_types=["image"], label="Pictures of it", elem_id="lesson-pictures")
            camera = gr.Image(type="filepath", label="Or from the camera", sources=["webcam"], height=240, buttons=[])
            collect = gr.Button("Collect", elem_id="collect")
        with gr.Column(min_width=NARROW):
            said = gr.HTML(f"<p>{lessons.said()}</p>", elem_id="collected")
            learn = gr.Button("Learn", variant="primary", elem_id="learn")
            progress = gr.Textbox(label="Progress", lines=8, interactive=False, elem_id="progress")
            changed = gr.HTML(elem_id="changed")

    def keep(class_name: str | None, files: list[str] | None, photo: str | None) -> tuple[str, None, None]:
        try:
            return f"<p>{escape(lessons.collect(class_name or '', [*(files or []), *([photo] if photo else [])]))}</p>", None, None
        except ValueError as error:
            raise gr.Error(str(error)) from error

    def go_on() -> Any:
        before, lines = len(read_run(folder).results.sessions), []
        try:
            for line in lessons.learn():
                lines.append(line)
                yield "\n".join(lines[-40:]), "", gr.skip(), gr.skip(), gr.skip(), gr.skip()
        except ValueError as error:
            raise gr.Error(str(error)) from error
        desk.reload()
        names = desk.models.names
        yield (
            "\n".join(lines[-40:]),
            f"<p>{escape(lessons.what_changed(before))}</p>",
            f"<p>{escape(lessons.said())}</p>",
            table_of(class_cards(read_run(folder))),
            gr.Dropdown(names, value=names[-1], interactive=True),
            gr.Dropdown(lessons.classes, value=None),
        )

    collect.click(keep, [name, pictures, camera], [said, pictures, camera], api_visibility="private")
    learn.click(go_on, None, [progress, changed, said, table, now, name], api_visibility="private")


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
