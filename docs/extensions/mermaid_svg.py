"""Render Mermaid blocks to SVG when the site is built, so that its pages need neither a network nor JavaScript.

`mermaidx` runs Mermaid itself. The SVG stands in the page, and `_static/opsin.css` gives it the colors of the theme.
Rendered diagrams are kept in the folder of the doctrees, by the digest of their text.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

LEGIBLE = 0.58
"""Smallest scale at which a diagram is drawn; below that it scrolls."""


class Mermaid(SphinxDirective):
    """Place a diagram in the page as SVG."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the SVG as raw HTML, or the source of the diagram for other builders."""
        source = "\n".join(self.content)
        if self.env.app.builder.format != "html":
            return [nodes.literal_block(source, source)]
        svg = rendered(source, Path(self.env.doctreedir) / "mermaid")
        return [nodes.raw("", f'<div class="diagram" tabindex="0">{svg}</div>', format="html")]


def rendered(source: str, cache: Path) -> str:
    """Return the SVG of a diagram, with identifiers that no other diagram of a page has.

    Args:
        source: Mermaid source.
        cache: Folder of the diagrams that are rendered already.
    """
    import mermaidx

    digest = hashlib.sha256(f"{mermaidx.__version__} {source}".encode()).hexdigest()[:12]
    file = cache / f"{digest}.svg"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        mermaidx.render(source).save(str(file))
    svg = file.read_text(encoding="utf-8").replace("my-svg", f"diagram-{digest}")
    svg = re.sub(r"<style>.*?</style>", "", svg, flags=re.DOTALL)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])  # type: ignore[index]
    return svg.replace('style="max-width:', f'style="min-width: {LEGIBLE * width:.0f}px; max-width:', 1)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True}
