"""Draws the figures of the documentation: python docs/figures/draw.py

Plain SVG without fonts or scripts of its own. Colours follow the reader's light or dark scheme. Frozen parts are grey, what trains is
orange, data and results are blue.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent

STYLE = """
svg { --ink: #1f2430; --soft: #5c6470; --frozen: #e4e7ec; --edge: #9aa3b0 }
svg { --trained: #ffd9a8; --glow: #c2620a; --data: #d3e5fb; --sea: #2463b0 }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e8eaf0; --soft: #a9b1bf; --frozen: #353b47; --edge: #7b8494 }
  svg { --trained: #6b4215; --glow: #f5a04a; --data: #1f3f66; --sea: #7db4f5 }
}
text { font: 14px system-ui, sans-serif; fill: var(--ink) }
.soft { fill: var(--soft) }
.small { font-size: 12px }
.strong { font-weight: 600 }
.mono { font-family: ui-monospace, monospace }
.middle { text-anchor: middle }
.end { text-anchor: end }
.frozen { fill: var(--frozen); stroke: var(--edge) }
.trained { fill: var(--trained); stroke: var(--glow) }
.data { fill: var(--data); stroke: var(--sea) }
.line { stroke: var(--edge); stroke-width: 1.5; fill: none }
.hot { stroke: var(--glow); stroke-width: 2.5 }
.cold { stroke: var(--sea); stroke-width: 2.5 }
.dashed { stroke-dasharray: 5 4 }
.tip { fill: var(--edge) }
.tip-hot { fill: var(--glow) }
.tip-cold { fill: var(--sea) }
"""
TIPS = "".join(
    f'<marker id="tip{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" '
    f'markerUnits="userSpaceOnUse"><path d="M0 0 8 4 0 8z" class="tip{name}"/></marker>'
    for name in ("", "-hot", "-cold")
)


class Figure:
    """Elements in drawing order."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title, self.elements = width, height, title, list[str]()

    def box(self, x: float, y: float, width: float, height: float, kind: str, text: str = "", style: str = "") -> None:
        """A rounded rectangle with centred text."""
        self.elements.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" class="{kind}"/>')
        if text:
            self.text(x + width / 2, y + height / 2 + 5, text, f"middle {style}")

    def text(self, x: float, y: float, text: str, style: str = "") -> None:
        """One line; y is its baseline."""
        self.elements.append(f'<text x="{x:g}" y="{y:g}" class="{style.strip()}">{escape(text)}</text>')

    def path(self, points: str, style: str = "", tip: bool = True) -> None:
        """A line along `points` ("x,y x,y"), with an arrow's tip at its end."""
        head = next((f"-{name}" for name in ("hot", "cold") if name in style.split()), "")
        mark = f' marker-end="url(#tip{head})"' if tip else ""
        self.elements.append(f'<polyline points="{points}" class="{f"line {style}".strip()}"{mark}/>')

    def svg(self) -> str:
        """The whole file."""
        start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" role="img">'
        body = "\n".join(self.elements)
        return f"{start}\n<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n<defs>{TIPS}</defs>\n{body}\n</svg>\n"


def sessions() -> Figure:
    """The front page: what stays and what grows."""
    figure = Figure(720, 300, "Three sessions: new classes arrive, one adapter is trained on, the head grows, the backbone stays frozen")
    arrivals = [("cat", "dog"), ("rabbit", "fox"), ("owl", "crow")]
    seen: list[str] = []
    for number, names in enumerate(arrivals):
        x = 20 + 240 * number
        figure.text(x + 100, 22, f"session {number}", "middle strong")
        for column, name in enumerate(names):
            figure.box(x + 20 + 84 * column, 36, 76, 30, "data", name)
        figure.path(f"{x + 100},66 {x + 100},92")
        figure.box(x, 94, 200, 34, "frozen", "backbone, frozen")
        figure.box(x + 30, 134, 140, 30, "trained", "adapter")
        figure.path(f"{x + 100},164 {x + 100},186")
        if number:
            figure.path(f"{x - 68},149 {x + 28},149", "hot")
        for row in range(6):
            old, new = row < len(seen), len(seen) <= row < len(seen) + 2
            if old or new:
                name = names[row - len(seen)] if new else seen[row]
                figure.box(x + 30, 188 + 17 * row, 140, 15, "trained" if new else "frozen")
                figure.text(x + 100, 200 + 17 * row, name, "middle small")
        seen += names
    return figure


def one_prompt() -> Figure:
    """One attention layer, and which layers have rows."""
    figure = Figure(720, 290, "OnePrompt: learned rows stand before the keys and values of the first attention layers")
    figure.text(20, 24, "attention of layer i", "strong")
    figure.box(20, 120, 86, 34, "data", "tokens x")
    for name, y in (("q", 48), ("k", 120), ("v", 192)):
        figure.path(f"106,137 130,137 130,{y + 17} 150,{y + 17}")
        figure.box(152, y, 70, 34, "frozen", f"W_{name}", "mono")
        figure.path(f"222,{y + 17} 256,{y + 17}")
        if name != "q":
            figure.box(258, y, 70, 34, "trained", f"P_{name}[i]", "mono")
        x = 258 if name == "q" else 330
        figure.box(x, y, 130, 34, "data", f"{name} of the N tokens")
    figure.text(258, 176, "L learned rows, after the projection", "small soft")
    figure.path("388,65 500,65 500,118")
    figure.path("460,137 484,137")
    figure.path("460,209 500,209 500,156")
    figure.box(486, 120, 96, 34, "frozen", "softmax · v")
    figure.path("582,137 610,137")
    figure.box(612, 120, 92, 34, "data", "N tokens")
    figure.text(20, 262, "layers", "small soft")
    for layer in range(12):
        figure.box(70 + 42 * layer, 244, 36, 28, "trained" if layer < 5 else "frozen", str(layer), "small")
    figure.text(584, 262, "L = 5 5 20 20 20", "small soft mono")
    return figure


def cpe_clip() -> Figure:
    """The two towers and the linear layer between their prompts."""
    figure = Figure(720, 330, "CPE-CLIP: the same prompt vectors in every layer of both towers of CLIP, joined by one linear layer")
    figure.text(20, 30, "text tower, frozen", "strong")
    figure.text(20, 188, "vision tower, frozen", "strong")
    figure.box(20, 44, 560, 74, "frozen")
    figure.box(20, 202, 560, 74, "frozen")
    for x, width, kind, label in (
        (32, 56, "data", "BOS"),
        (92, 96, "trained", "g[i]"),
        (192, 120, "data", "class name"),
        (316, 56, "data", "EOS"),
    ):
        figure.box(x, 60, width, 34, kind, label)
    for x, width, kind, label in (
        (32, 56, "data", "CLS"),
        (92, 220, "data", "patches"),
        (316, 56, "trained", "v[0]"),
        (376, 56, "trained", "v[i]"),
    ):
        figure.box(x, 218, width, 34, kind, label)
    figure.text(92, 110, "replaced before every layer i", "small soft")
    figure.text(316, 268, "appended; earlier ones stay", "small soft")
    figure.path("140,94 140,144 388,144", "hot", tip=False)
    figure.box(388, 130, 150, 28, "trained", "linear layer")
    figure.path("463,158 463,190 404,190 404,216", "hot")
    figure.text(150, 138, "g[i]", "small soft mono")
    figure.text(452, 180, "v[i] = proj(g[i])", "small soft mono end")
    figure.path("580,81 640,81 640,140")
    figure.path("580,239 640,239 640,180")
    figure.box(590, 142, 110, 36, "data", "100 · cosine")
    figure.text(20, 310, "A new class is a new text: there are no rows that grow.", "small soft")
    return figure


def async_lora() -> Figure:
    """Student and teacher in session 0."""
    figure = Figure(720, 340, "Asynchronous LoRA: a student with LoRA and unfrozen copies, and a teacher that follows the copies")
    for y, name, view in ((40, "student", "view 1"), (200, "teacher", "view 2")):
        figure.text(20, y - 10, name, "strong")
        figure.box(20, y + 20, 70, 34, "data", view)
        figure.path(f"90,{y + 37} 116,{y + 37}")
        figure.box(118, y, 170, 74, "frozen")
        figure.text(203, y + 24, "first blocks", "middle")
        figure.path(f"288,{y + 37} 314,{y + 37}")
        figure.box(316, y, 190, 74, "trained" if name == "student" else "frozen")
        figure.text(411, y + 24, "last blocks, pooler" if name == "student" else "average of the copies", "middle")
        figure.path(f"506,{y + 37} 540,{y + 37}")
        figure.box(542, y + 20, 60, 34, "data", "e" if name == "student" else "e'", "mono")
    figure.box(143, 78, 120, 26, "trained", "LoRA on q and v", "small")
    figure.box(351, 78, 120, 26, "trained", "LoRA on q and v", "small")
    figure.text(411, 132, "copies of the base's weights", "middle small soft")
    figure.path("411,140 411,198", "hot")
    figure.text(402, 174, "each step: T ← m T + (1 − m) S", "small soft mono end")
    figure.path("602,77 640,77 640,146", "cold")
    figure.path("602,237 640,237 640,182", "cold")
    figure.box(590, 148, 110, 32, "data", "contrast")
    figure.text(
        20, 306, "One backbone plays both: a role switches LoRA and copies. The teacher has no LoRA and gets no gradient.", "small soft"
    )
    figure.text(20, 326, "Later sessions: the mean embedding of a class's shots becomes its row.", "small soft")
    return figure


def glad() -> Figure:
    """The gradient that is followed."""
    figure = Figure(720, 300, "GLAD: the step follows a point between the plain gradient and the gradient at a perturbed point")
    figure.box(20, 50, 150, 34, "frozen", "W, frozen")
    figure.box(20, 94, 70, 34, "trained", "A", "mono")
    figure.box(100, 94, 70, 34, "trained", "B", "mono")
    figure.text(20, 34, "q, k, v of both towers", "strong")
    figure.text(20, 152, "W x + (α/√r) B A x", "mono")
    figure.text(20, 178, "saved as ordinary LoRA tensors", "small soft")
    figure.text(260, 34, "one step", "strong")
    figure.path("300,250 480,60", "cold")
    figure.path("300,250 640,190", "cold")
    figure.path("300,250 557,126", "hot")
    figure.path("480,60 640,190", "dashed", tip=False)
    figure.text(466, 48, "g, at w", "strong")
    figure.text(690, 220, "g', at w + ρ g/‖g‖", "strong end")
    figure.text(570, 118, "(1 − λ) g + λ g'", "strong")
    figure.text(300, 278, "λ = 0 is plain LoRA, λ = 1 is SAM; the default is 0.5", "small soft")
    return figure


def sara() -> Figure:
    """A weight matrix, its smallest entries, and what the file holds."""
    figure = Figure(
        720, 300, "SaRA: the smallest entries of a weight matrix are trained; the adapter holds their positions and differences"
    )
    draw, side = random.Random(3), 26
    values = [[draw.gauss(0, 1) for _ in range(10)] for _ in range(8)]
    chosen = [(abs(value) < 0.2, row, column) for row, line in enumerate(values) for column, value in enumerate(line)]
    figure.text(20, 30, "weight W, frozen", "strong")
    for small, row, column in chosen:
        figure.box(20 + side * column, 44 + side * row, side - 3, side - 3, "trained" if small else "frozen")
    figure.text(20, 274, "|w| < θ, or the smallest share of each matrix", "small soft")
    figure.path("286,146 336,146", "hot")
    figure.text(346, 30, "in the adapter", "strong")
    for index, (_, row, column) in enumerate([entry for entry in chosen if entry[0]][:5]):
        y = 52 + 38 * index
        figure.box(346, y, 82, 30, "data", str(10 * row + column), "mono")
        figure.box(434, y, 82, 30, "trained", f"δ{index}", "mono")
    figure.text(346, 262, "position", "small soft")
    figure.text(434, 262, "difference", "small soft")
    figure.path("522,146 560,146", "hot")
    figure.text(566, 136, "W[position] + δ", "mono")
    figure.text(566, 160, "0 at the start,", "small soft")
    figure.text(566, 178, "added in the forward", "small soft")
    return figure


def own_data() -> Figure:
    """A collection over three months, and what each command makes of it."""
    title = "A collection over three months: what comes, goes and moves, and the sessions that the commands make of it"
    figure = Figure(720, 356, title)
    months = (
        ("September", "photos/", (("bee", 6, ()), ("cat", 6, ()), ("fox", 6, ())), ("0  bee cat ...", "1  fox hen ...")),
        ("October", "another disk/", (("ant", 6, range(6)), ("cat", 5, ()), ("fox", 6, (2,))), ("0", "1", "2  ant")),
        ("November", "another disk/", (("ant", 6, ()), ("dog", 9, range(6, 9)), ("fox", 6, (2,))), ("0", "1", "2", "3  more dogs, a fox")),
    )
    for number, (month, folder, classes, taught) in enumerate(months):
        x = 14 + 236 * number
        figure.text(x, 24, month, "strong")
        figure.text(x, 46, folder, "mono small soft")
        for row, (name, count, new) in enumerate(classes):
            y = 58 + 34 * row
            figure.text(x + 8, y + 16, name, "small")
            for picture in range(count):
                figure.box(x + 40 + 18 * picture, y, 14, 20, "trained" if picture in new else "data")
            if count < 6:
                figure.box(x + 130, y, 14, 20, "line dashed")
        figure.path(f"{x + 100},166 {x + 100},192")
        for row, label in enumerate(taught):
            last = row == len(taught) - 1 and number > 0
            figure.box(x, 198 + 34 * row, 200, 26, "trained" if last or not number else "frozen")
            figure.text(x + 10, 216 + 34 * row, label, "small")
    figure.text(14, 350, "orange: new; broken line: deleted; below the arrows, the sessions of the run", "small soft")
    return figure


FIGURES: tuple[Callable[[], Figure], ...] = (sessions, own_data, one_prompt, cpe_clip, async_lora, glad, sara)

if __name__ == "__main__":
    for draw_figure in FIGURES:
        (FOLDER / f"{draw_figure.__name__}.svg").write_text(draw_figure().svg())
