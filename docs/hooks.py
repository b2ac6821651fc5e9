"""What MkDocs does beside its own: pages from elsewhere in the repository, links between all, nothing from afar.

The pages are written for a code host, where links lead through the repository. Here each link is led to the page that
the file has become.
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
# Where in the repository a page of the site comes from, when it is not in docs/.
_HOMES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "benchmarks/README.md": None}
_FENCE_OR_LINK = re.compile(
    r"(?P<fence>^ *(?P<mark>```+|~~~+).*?^ *(?P=mark) *$)"
    r"|\[(?P<text>[^\]]*)\]\((?P<target>(?!https?:|mailto:|#)[^)\s#]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/, and the notebooks as they were last run."""
    pages = {page or home: (ROOT / home).read_text() for home, page in _HOMES.items()}
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
        body = body.replace(' border="1" class="dataframe"', "")  # the site's own look of tables
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=body))
        for name, image in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=image))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links through the repository to pages of the site; of files that are none, only the words stay."""
    here = page.file.src_uri
    homes = {site: home for home, site in _HOMES.items() if site}
    home = homes.get(here, here if here.startswith(("benchmarks/", "notebooks/")) else f"docs/{here}")

    def lead(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or files.get_file_from_path(
            posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        ):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
        if not (ROOT / path).exists():
            raise PluginError(f"{home}: the link to {target} leads nowhere")
        site = _page_of(path)
        if files.get_file_from_path(site) is None:
            return found["text"]
        return f"[{found['text']}]({posixpath.relpath(site, posixpath.dirname(here) or '.')}{found['anchor'] or ''})"

    return _FENCE_OR_LINK.sub(lead, markdown)


def _page_of(path: str) -> str:
    """Return which page of the site a file of the repository has become, if any."""
    if path == RESULTS:
        return f"{RESULTS}/index.md"
    return _HOMES.get(path) or path.removeprefix("docs/").replace(".ipynb", ".md")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would fetch anything from elsewhere."""
    found = _Fetched()
    found.feed(output)
    if found.afar:
        raise PluginError(f"{page.file.src_uri} fetches {', '.join(sorted(found.afar))}: keep it beside the page")
    return output


class _Fetched(HTMLParser):
    """Collects what a page makes a browser fetch from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.afar: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        url = given.get("src") or (given.get("href") if tag == "link" and given.get("rel") != "canonical" else None)
        if url and re.match(r"(https?:)?//", url):
            self.afar.add(url)
