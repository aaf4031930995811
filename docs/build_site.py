"""Build the documentation site: `make docs-site`, into site/.

    python docs/build_site.py [--keep FOLDER]

The site is the pages of docs/, README.md, SECURITY.md and CHANGELOG.md, and a reference with a page a
room of each package, written from the folders as they are, so that a new module needs no entry
anywhere. All of it is first laid out as plain Markdown in a folder of its own beside a copy of
mkdocs.yml, then built by mkdocs in strict mode: a broken link or anchor is an error. A link that leads
out of these pages (to results, profiles, a task file) is shown as its text. At the end no page may
make a browser load anything from another host.
"""

from __future__ import annotations

import argparse
import ast
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("proper_model", "client", "coordinator", "simulations")
# Files of the repository's root that are pages of the site.
ROOT_PAGES = {
    "README.md": "readme.md",
    "SECURITY.md": "security-policy.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
# What a browser fetches by itself: scripts, images, frames, style sheets and what these name.
LOADED = (
    re.compile(r"<(?:script|img|iframe|source|audio|video|embed)\b[^>]*?\ssrc=[\"']?([^\"'\s>]+)"),
    re.compile(
        r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|dns-prefetch|icon))"
        r"[^>]*?\shref=[\"']?([^\"'\s>]+)"
    ),
    re.compile(r"url\(\s*[\"']?([^\"')\s]+)"),
    re.compile(r"@import\s+[\"']([^\"']+)"),
)
# Parts of pages for which the theme's script fetches something by itself, and from where.
FETCHED = {
    'class="mermaid"': "https://unpkg.com (diagrams)",
    'data-md-component="source"': "https://api.github.com (a repository's stars)",
}


# --- the reference -------------------------------------------------------------------------------


def rooms(root: Path = ROOT) -> list[str]:
    """Dotted names of all packages and sub-packages that the reference describes."""
    found = [
        file.parent.relative_to(root).as_posix().replace("/", ".")
        for package in PACKAGES
        for file in (root / package).rglob("__init__.py")
    ]
    return sorted(found, key=lambda name: (PACKAGES.index(name.split(".")[0]), name))


def reference_page(room: str, root: Path = ROOT) -> str:
    """Markdown of a room's page: its face, then each of its public modules."""
    folder = root / room.replace(".", "/")
    options = "    options: {members: false, show_root_heading: false}"
    lines = [f"# {room}", "", f"::: {room}", options, ""]
    face = list(_face(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")), room))
    if face:
        lines += ["What other rooms use of it:", "", *face, ""]
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            lines += [f"::: {room}.{path.stem}", ""]
    return "\n".join(lines)


def _face(tree: ast.Module, room: str) -> Iterator[str]:
    """A line for every name of a room's `__all__`, which is of an object or a module."""
    origins = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            for name in ast.literal_eval(node.value):
                yield f"* [`{name}`][{origins.get(name, f'{room}.{name}')}]"


# --- links ---------------------------------------------------------------------------------------


def for_the_site(markdown: str, page: str, root: Path = ROOT) -> str:
    """A page's text with its links led to where the site has what they mean.

    `page` is the file's path in the repository, such as `docs/tasks.md`.
    """
    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(lambda match: _led(match, page, root), part) for part in parts[::2]]
    return "".join(parts)


def _led(match: re.Match[str], page: str, root: Path) -> str:
    path, hash_, anchor = match["target"].partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return match[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    inside = target.removeprefix("docs/") if target.startswith("docs/") else ROOT_PAGES.get(target)
    if inside is None or inside.endswith(".py") or (root / target).is_dir():
        return match["text"]
    here = posixpath.dirname(page.removeprefix("docs/")) if page.startswith("docs/") else ""
    return (
        f"{match['image']}[{match['text']}]"
        f"({posixpath.relpath(inside, here or '.')}{hash_}{anchor})"
    )


# --- laying out, building, checking --------------------------------------------------------------


def lay_out(target: Path, root: Path = ROOT) -> Path:
    """Write all pages into `target`/pages and the configuration beside; return the latter's path."""
    pages = target / "pages"
    shutil.copytree(
        root / "docs", pages, ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__")
    )
    sources = {f"docs/{path.relative_to(root / 'docs')}": path for path in markdown_pages(root)}
    sources |= {name: root / name for name in ROOT_PAGES}
    for name, source in sources.items():
        page = pages / ROOT_PAGES.get(name, name.removeprefix("docs/"))
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(for_the_site(source.read_text(encoding="utf-8"), name, root), "utf-8")
    (pages / "reference").mkdir()
    for room in rooms(root):
        (pages / f"reference/{room}.md").write_text(reference_page(room, root), "utf-8")
    # The list of pages stands last in mkdocs.yml, so that the reference's can follow it.
    listed = [f"      - {room}: reference/{room}.md" for room in rooms(root)]
    configuration = (root / "mkdocs.yml").read_text(encoding="utf-8")
    file = target / "mkdocs.yml"
    file.write_text("\n".join([configuration.rstrip(), "  - Reference:", *listed, ""]), "utf-8")
    return file


def markdown_pages(root: Path = ROOT) -> list[Path]:
    """Every page of docs/."""
    return sorted((root / "docs").rglob("*.md"))


def foreign(text: str) -> list[str]:
    """Addresses on other hosts that a browser would load by itself for this page or style sheet."""
    found = [match[1] for pattern in LOADED for match in pattern.finditer(text)]
    addresses = [address for address in found if re.match(r"(?:https?:)?//", address)]
    return addresses + [host for part, host in FETCHED.items() if part in text]


def check_hosts(site: Path) -> None:
    """Raise ValueError if a page or a style sheet loads something from another host."""
    for path in sorted((*site.rglob("*.html"), *site.rglob("*.css"))):
        for address in foreign(path.read_text(encoding="utf-8")):
            raise ValueError(f"{path.relative_to(site)} loads {address} from another host")


def build(folder: Path, site: Path) -> None:
    """Build from `folder`, which is empty or absent, into `site`. Exits if mkdocs finds a fault."""
    configuration = lay_out(folder)
    command = ["mkdocs", "build", "--config-file", str(configuration), "--site-dir", str(site)]
    # The reference is of this checkout, wherever else the packages are installed.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    check_hosts(site)


def main() -> None:
    """Build the site of this checkout."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the laid-out pages here")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as folder:
        build(keep or Path(folder), ROOT / "site")


if __name__ == "__main__":
    main()
