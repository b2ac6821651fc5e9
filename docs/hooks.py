"""Hooks of MkDocs: add pages from outside docs/, convert links, and reject external resources.

The pages are written for a code host, where links point to files of the repository. Each link to a file is replaced by
one to the page that is made from it.
"""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"
# Files outside docs/ that become pages, with the names of these pages; None keeps the name.
_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "benchmarks/README.md": None}
_FENCE_OR_LINK = re.compile(
    r"(?P<fence>^ *(?P<mark>```+|~~~+).*?^ *(?P=mark) *$)"
    r"|\[(?P<text>[^\]]*)\]\((?P<target>(?!https?:|mailto:|#)[^)\s#]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/, and the notebooks with their stored outputs."""
    pages = {page or file: (ROOT / file).read_text() for file, page in _PAGES.items()}
    results = sorted((ROOT / RESULTS).glob("*.md"))
    pages |= {f"{RESULTS}/{file.name}": file.read_text() for file in results}
    titles = [(file.name, file.read_text().split("\n", 1)[0].lstrip("# ")) for file in results]
    pages[f"{RESULTS}/index.md"] = "# Results\n\n" + "".join(f"- [{title}]({name})\n" for name, title in titles)
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        read = nbformat.read(notebook, as_version=4)
        resources: dict[str, Any] = {"unique_key": notebook.stem, "output_files_dir": f"{notebook.stem}_files"}
        body, resources = MarkdownExporter().from_notebook_node(read, resources)
        body = body.replace(' border="1" class="dataframe"', "")  # the theme has its own style for tables
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=body))
        for name, image in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=image))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Convert links to files into links to pages; links to other files become plain text."""
    page_path = page.file.src_uri
    files_of_pages = {site: file for file, site in _PAGES.items() if site}
    is_outside = page_path.startswith(("benchmarks/", "notebooks/"))
    file_path = files_of_pages.get(page_path, page_path if is_outside else f"docs/{page_path}")

    def convert(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or files.get_file_from_path(
            posixpath.normpath(posixpath.join(posixpath.dirname(page_path), target))
        ):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file_path), target))
        if not (ROOT / path).exists():
            raise PluginError(f"{file_path}: the target of the link {target} does not exist")
        site = _page_of(path)
        if files.get_file_from_path(site) is None:
            return match["text"]
        return (
            f"[{match['text']}]({posixpath.relpath(site, posixpath.dirname(page_path) or '.')}{match['anchor'] or ''})"
        )

    return _FENCE_OR_LINK.sub(convert, markdown)


def _page_of(path: str) -> str:
    """Return the page of the site that is made from a file, if any."""
    if path == RESULTS:
        return f"{RESULTS}/index.md"
    return _PAGES.get(path) or path.removeprefix("docs/").replace(".ipynb", ".md")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Reject a page that loads anything from another host."""
    parser = _ExternalResources()
    parser.feed(output)
    if parser.urls:
        raise PluginError(f"{page.file.src_uri} loads {', '.join(sorted(parser.urls))}: store it in the repository")
    return output


class _ExternalResources(HTMLParser):
    """Collects the addresses on other hosts that a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        url = values.get("src") or (values.get("href") if tag == "link" and values.get("rel") != "canonical" else None)
        if url and re.match(r"(https?:)?//", url):
            self.urls.add(url)
