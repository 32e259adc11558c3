"""Pages of the site that are made of other files, and links between all of them (hooks of MkDocs).

README, changelog and notebooks stay where a repository has them, and are pages too; the help of the command
line is the parser's own. So that links work in the repository and on the site, a page may link to any file:
to another page, or to a copy of the file in ``source/``.
"""

from __future__ import annotations

import argparse
import posixpath
import re
from pathlib import Path

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from krypton_engine.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HELP = "<!-- the help of every command -->"

_LINK = re.compile(r"(\]\()(?!\w+:|#|<)([^)\s#]+)")
_NAME = re.compile(r"<code>((?:krypton_engine|krypton_widget)\.[\w.]+)</code>")


def on_files(files: Files, config) -> Files:
    """All pages, with links that lead to pages, and copies of the other files that they lead to."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    texts |= {name: (ROOT / name).read_text() for name in PAGES}
    for notebook in NOTEBOOKS:
        texts[f"notebooks/{notebook.name}"], pictures = notebook_page(notebook)
        for name, content in pictures.items():
            files.append(File.generated(config, f"gallery/{name}", content=content))
    copied = set()
    for source, text in texts.items():
        page = place(source)
        text = text.replace(HELP, command_help())
        text, elsewhere = relinked(text, source)
        copied |= elsewhere
        if (known := files.get_file_from_path(page)) is not None:
            files.remove(known)
        files.append(File.generated(config, page, content=text))
    for name in sorted(copied):
        files.append(File.generated(config, place(name), content=(ROOT / name).read_bytes()))
    return files


def place(name: str) -> str:
    """The place on the site of a file of the repository."""
    folder, _, rest = name.partition("/")
    if folder == "docs":
        return rest
    if folder == "notebooks":
        return f"gallery/{Path(rest).stem}.md"
    return PAGES.get(name, f"source/{name}")


def relinked(text: str, source: str) -> tuple[str, set[str]]:
    """A page's text with links of the site, and the files without a page that it links to."""
    copied = set()

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        if not (ROOT / target).is_file():
            return found[0]  # a picture of a notebook, or broken, as MkDocs says
        if place(target).startswith("source/"):
            copied.add(target)
        return found[1] + posixpath.relpath(place(target), posixpath.dirname(place(source)) or ".")

    return _LINK.sub(link, text), copied


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name; each has the cell's ``alt`` as its text."""
    notebook = nbformat.read(path, as_version=4)
    exporter = MarkdownExporter(
        config={
            "ExtractOutputPreprocessor": {"output_filename_template": path.stem + "_{cell_index}{extension}"}
        }
    )
    text, resources = exporter.from_notebook_node(notebook)
    alts = [cell.metadata.get("alt") for cell in notebook.cells if shows_picture(cell)]
    if not all(alts):
        raise PluginError(f"{path.name}: a cell that draws a picture has no alt in its metadata")
    words = iter(alts)
    text = re.sub(r"!\[(?:png|jpeg)\]\(", lambda _: f"![{next(words)}](", text)
    return text, resources["outputs"]


def shows_picture(cell) -> bool:
    """Whether a cell has a picture among its outputs."""
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def command_help() -> str:
    """The help of every command, as the parser prints it."""
    parser = build_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return "\n".join(
        f"### krypton {name}\n\n```text\n{command.format_help()}```\n"
        for name, command in commands.choices.items()
    )


def on_page_content(html: str, **_) -> str:
    """Public names in a text lead to their reference, where they have one."""
    return _NAME.sub(r'<autoref identifier="\1" optional>\g<0></autoref>', html)


def on_post_page(output: str, **_) -> str:
    """The theme's search, which is a dialogue, has a name that is read out."""
    search = 'data-md-component="search" role="dialog"'
    return output.replace(search, f'{search} aria-label="Search"')
