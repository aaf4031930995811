"""The documents say nothing that is not so: links, anchors, named files and functions, numbers."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from proper_model.settings import load_profile, to_mapping

ROOT_PAGES = ("README.md", "SECURITY.md", "CHANGELOG.md")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
FOLDERS = (
    *("proper_model", "client", "coordinator", "simulations", "benchmarks"),
    *("tests", "docs", "profiles", "results", "examples"),
)
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*\w")
# `docs/method.md 1.5 f, 1.7`; what says `section 5` is tests/test_readme.py's.
CITATION = re.compile(r"docs/([\w-]+)\.md,? (\d+(?:\.\d+)?(?:(?: [a-z])?(?:,| and|-)\s*\d+\.\d+)*)")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
CITING = ("*.py", "*.toml", "Makefile")


@pytest.fixture(scope="module")
def pages(repository: Path) -> list[Path]:
    return [
        *(repository / name for name in ROOT_PAGES),
        *sorted((repository / "docs").rglob("*.md")),
    ]


@pytest.fixture(scope="module")
def site(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("docs/build_site.py")


# --- links ---------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What GitHub, and the site, call the headings of a page."""
    found: dict[str, int] = {}
    for match in HEADING.finditer(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, last in found.items() for n in range(last + 1)}


def broken_links(page: Path) -> list[str]:
    """Links to a file or a heading that is not there; addresses on the web are not tried."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in LINK.finditer(INLINE.sub("", FENCE.sub("", text))):
        path, _, anchor = match["target"].partition("#")
        target = page.parent / path if path else page
        if "://" in path or path.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            found.append(f"{page.name}: {match['target']}")
    return found


def test_links_and_anchors_lead_somewhere(pages: list[Path]) -> None:
    assert [link for page in pages for link in broken_links(page)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One `two`: [3](x) & four\n## Again\n## Again\n```\n# no heading\n```\n")
    page.write_text(
        "# Top\n[gone](gone.md) [web](https://example.org/x#y) [top](#top) [no](#bottom) "
        "[a](other.md#one-two-3--four) [b](other.md#again-1) [c](other.md#again-2) "
        "[d](other.md#no-heading) `[code](gone.md)`\n"
    )
    assert broken_links(page) == [
        *("page.md: gone.md", "page.md: #bottom"),
        *("page.md: other.md#again-2", "page.md: other.md#no-heading"),
    ]


# --- what is named exists ------------------------------------------------------------------------


def named_paths(text: str) -> list[str]:
    """Files and folders of the repository in inline code."""
    return [
        match[0]
        for code in INLINE.findall(FENCE.sub("", text))
        if (match := PATH.fullmatch(code.removesuffix("/")))
    ]


def named_functions(text: str) -> Iterator[tuple[str, str]]:
    """(file, name) where a page says `FILE.py`: `name`, `name`."""
    for match in re.finditer(r"`([\w/]+\.py)`:((?:\s*,?\s*`\w+`)+)", text):
        for name in re.findall(r"`(\w+)`", match[2]):
            yield match[1], name


def defined(source: str) -> set[str]:
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)}


def test_named_files_exist(repository: Path, pages: list[Path]) -> None:
    missing = [
        f"{page.name}: {name}"
        for page in pages
        for name in named_paths(page.read_text(encoding="utf-8"))
        if not (repository / name).exists()
    ]
    assert missing == []


def test_named_functions_stand_in_their_files(repository: Path, pages: list[Path]) -> None:
    named = [pair for page in pages for pair in named_functions(page.read_text(encoding="utf-8"))]
    assert len(named) > 20
    missing = [
        f"{file}: {name}"
        for file, name in named
        if (repository / file).is_file() and name not in defined((repository / file).read_text())
    ]
    assert missing == []


def test_names_are_read_from_a_page() -> None:
    page = "| `client/a.py`: `f`, `G` | `tests/b/` `client/c.py x` `other/d.py`\n```\n`tests/e.py`\n```"
    assert named_paths(page) == ["client/a.py", "tests/b"]
    assert list(named_functions(page)) == [("client/a.py", "f"), ("client/a.py", "G")]
    assert defined("class A:\n    def b(self): ...\n") == {"A", "b"}


# --- sections that comments cite -----------------------------------------------------------------


def sections(text: str) -> set[str]:
    """Numbers of a document's headings and of its numbered rules."""
    return set(re.findall(r"^(?:#{2,4} |\*\*)(\d+(?:\.\d+)?)\b", text, re.MULTILINE))


def wrong_citations(source: str, numbers: dict[str, set[str]]) -> list[str]:
    found = [
        (name, number)
        for name, listed in CITATION.findall(source)
        for number in NUMBER.findall(listed)
    ]
    return [f"{name} {number}" for name, number in found if number not in numbers.get(name, set())]


def test_cited_sections_exist(repository: Path) -> None:
    numbers = {
        page.stem: sections(page.read_text(encoding="utf-8"))
        for page in (repository / "docs").glob("*.md")
    }
    sources = [
        path
        for folder in (*FOLDERS, ".ci")
        for pattern in CITING
        for path in (repository / folder).rglob(pattern)
        if path.name != Path(__file__).name
    ]
    wrong = [
        f"{path.relative_to(repository)}: {citation}"
        for path in (*sources, repository / "Makefile", repository / "pyproject.toml")
        for citation in wrong_citations(path.read_text(encoding="utf-8"), numbers)
    ]
    assert wrong == []


def test_a_wrong_citation_is_found() -> None:
    numbers = {
        "method": sections("# 9 x\n## 1 The\n### 1.7 y\n**2.3 Words.** z"),
        "performance": set(),
    }
    assert numbers["method"] == {"1", "1.7", "2.3"}
    source = (
        "(docs/method.md 1.7) docs/method.md, 1.7 and 1.8; docs/method.md 2.3, docs/method.md 3: "
        "docs/method.md 1.7 f and 1.9 3c, docs/no.md 1, docs/method.md 1.7-1.6. A preset of 4.5"
    )
    wrong = ["method 1.8", "method 3", "method 1.9", "no 1", "method 1.6"]
    assert wrong_citations(source, numbers) == wrong


# --- the site ------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads mkdocs' own tags as nothing."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def listed(entry: Any) -> Iterator[str]:
    """Pages of a navigation, in order."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from listed(part)


@pytest.fixture(scope="module")
def configuration(repository: Path) -> dict[str, Any]:
    return yaml.load((repository / "mkdocs.yml").read_text(), _Loader)


def test_the_site_lists_every_page_once(
    repository: Path, site: ModuleType, configuration: dict[str, Any]
) -> None:
    docs = repository / "docs"
    there = [path.relative_to(docs).as_posix() for path in site.markdown_pages()]
    assert sorted(listed(configuration["nav"])) == sorted([*there, *site.ROOT_PAGES.values()])
    assert list(configuration)[-1] == "nav", "the reference is appended to it"


def test_the_site_asks_for_nothing_from_other_hosts(configuration: dict[str, Any]) -> None:
    assert configuration["strict"] is True
    assert configuration["theme"]["font"] is False
    # A repository's address makes the theme ask its host for stars; some plugins load scripts.
    assert not {"repo_url", "extra_javascript"} & set(configuration)
    assert [
        name if isinstance(name, str) else next(iter(name)) for name in configuration["plugins"]
    ] == [
        "search",
        "mkdocstrings",
    ]


@pytest.mark.parametrize(
    "loading",
    [
        '<script async src="https://a.example/x.js"></script>',
        "<img alt=x src=//a.example/x.png>",
        '<link href="https://fonts.a.example" rel="preconnect">',
        '<link rel=stylesheet href="http://a.example/x.css">',
        "@font-face{src:url(https://a.example/x.woff2)}",
        '@import "https://a.example/x.css";',
        '<pre class="mermaid"><code>graph</code></pre>',
        '<a href="https://a.example" data-md-component="source">',
    ],
)
def test_what_a_browser_would_load_from_elsewhere_is_found(
    site: ModuleType, tmp_path: Path, loading: str
) -> None:
    own = '<script src="assets/x.js"></script><a href="https://a.example">x</a><img src="x.svg">'
    assert site.foreign(own) == []
    assert len(site.foreign(own + loading)) == 1
    (tmp_path / "page.html").write_text(own)
    site.check_hosts(tmp_path)
    (tmp_path / "page.html").write_text(own + loading)
    with pytest.raises(ValueError, match=r"page.html loads .* from another host"):
        site.check_hosts(tmp_path)


def test_links_lead_to_what_the_site_has(site: ModuleType, repository: Path) -> None:
    def led(page: str, text: str) -> str:
        return site.for_the_site(text, page, repository)

    assert led("README.md", "[a](docs/tasks.md#x) ![b](docs/growth.svg)") == (
        "[a](tasks.md#x) ![b](growth.svg)"
    )
    assert led("docs/adr/0001.md", "[a](../tasks.md) [b](../../README.md#c) [d](#e)") == (
        "[a](../tasks.md) [b](../readme.md#c) [d](#e)"
    )
    assert led("docs/tasks.md", "[r](../results) [p](../profiles/tiny.toml) [h](https://x.y)") == (
        "r p [h](https://x.y)"
    )
    assert led("docs/tasks.md", "`[r](../results)`\n```\n[r](../results)\n```\n") == (
        "`[r](../results)`\n```\n[r](../results)\n```\n"
    )


def test_the_reference_follows_the_folders(site: ModuleType, tmp_path: Path) -> None:
    room = tmp_path / "client/vault"
    room.mkdir(parents=True)
    (tmp_path / "client/__init__.py").write_text("")
    (room / "__init__.py").write_text(
        "from client.vault.opening import Vault\nfrom client.home import Home\n"
        '__all__ = ["Vault", "opening"]\n'
    )
    (room / "opening.py").write_text("")
    (room / "_hidden.py").write_text("")
    assert site.rooms(tmp_path) == ["client", "client.vault"]
    page = site.reference_page("client.vault", tmp_path)
    assert re.findall(r"^::: (\S+)$", page, re.MULTILINE) == [
        "client.vault",
        "client.vault.opening",
    ]
    assert re.findall(r"^\* (.*)$", page, re.MULTILINE) == [
        "[`Vault`][client.vault.opening.Vault]",
        "[`opening`][client.vault.opening]",
    ]


def test_every_room_has_a_page(site: ModuleType, repository: Path, tmp_path: Path) -> None:
    file = site.lay_out(tmp_path / "site")
    content = yaml.load(file.read_text(), _Loader)
    reference = content["nav"][-1]["Reference"]
    assert {next(iter(entry)) for entry in reference} == set(site.rooms())
    for name in (
        *listed(reference),
        *site.ROOT_PAGES.values(),
        "adr/0001-four-packages-in-a-dedicated-environment.md",
    ):
        assert (tmp_path / "site/pages" / name).is_file()
    assert {"proper_model", "client.serving", "simulations"} <= set(site.rooms())
    assert not list((tmp_path / "site").rglob("*.py"))


@pytest.mark.full
def test_the_site_builds_without_a_warning(site: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    site.build(tmp_path / "laid out", tmp_path / "site")
    assert "answer_nll" in (tmp_path / "site/method.html").read_text()
    assert (tmp_path / "site/reference/proper_model.html").is_file()


# --- numbers -------------------------------------------------------------------------------------


def test_parameter_counts_follow_from_the_sizes(repository: Path) -> None:
    """The table of docs/method.md 1.3, computed from its formulas; tests/test_model.py has models."""
    text = (repository / "docs/method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \S+ \| (\d+), (\d+), (\d+) \| ([\d, |]+) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    experts, rank = 5, 4
    for sizes in rows:
        d, f, blocks = (int(size) for size in sizes[:3])
        lora = rank * 3 * (d + f) * blocks
        text_router = experts * (2 * d + f) * blocks
        lora_router = experts * (2 * f + d) * blocks
        printed = [int(cell.replace(",", "")) for cell in sizes[3].split("|")]
        assert printed == [lora, experts * lora, text_router, lora_router]
    assert "72 %" in text
    assert round(100 * 4_177_920 / 5_799_936) == 72


def test_settings_that_the_method_page_names_are_the_profiles(repository: Path) -> None:
    text = (repository / "docs/method.md").read_text(encoding="utf-8")
    profiles = [to_mapping(load_profile(p)) for p in (repository / "profiles").glob("*.toml")]
    weights = {p["name"]: p["group"]["constraint_weight"] for p in profiles}
    assert weights.pop("released-a100") == 0.0
    assert set(weights.values()) == {0.003}
    assert "`constraint_weight` is 0.003 in all profiles" in text
    ratios = {
        p["user"]["embedding_learning_rate"] / rate
        for p in profiles
        for rate in p["user"]["learning_rates"]
    }
    assert "ten to two hundred times" in text
    assert 10 <= min(ratios) < 20
    assert 100 < max(ratios) <= 200 + 1e-9


def test_costs_follow_from_the_sizes(repository: Path) -> None:
    """What docs/performance.md 2 and 5 compute for Llama-2-7B."""
    text = (repository / "docs/performance.md").read_text(encoding="utf-8")
    d, f, blocks, rank, experts = 4096, 11008, 32, 4, 5
    weights = blocks * (4 * d * d + 3 * d * f)
    adapter = rank * 3 * (d + f) * blocks
    a_token = 4 * weights
    stated = {
        f"{a_token / 1e9:.1f} billion a token",
        f"again, {1.5 * a_token / 1e9:.1f} billion",
        f"allows {3600 * 312e12 / a_token / 48_000:.0f} people",
        f"H200, {3600 * 790e12 / a_token / 48_000:,.0f}:",
        f"have {100 * (experts + 1) * adapter / weights:.1f} % of the weights",
        f"{16 * adapter / 1e6:.0f} MB a person",
        f"{round(0.5 * 790e12 / a_token, -2):,.0f} and {round(0.7 * 790e12 / a_token, -2):,.0f} tokens",
    }
    words = " ".join(text.split())
    assert [number for number in stated if number not in words] == []


def test_what_the_method_page_says_of_the_committed_runs_holds(repository: Path) -> None:
    """The sentences under "What was measured" of docs/method.md 1.9."""
    runs = {
        path.stem: json.loads(path.read_text())
        for path in (repository / "results").glob("*_*-*-*.json")
    }
    assert len(runs) == 11
    for name, run in runs.items():
        losses = {arm: run["arms"][arm]["metrics"]["nll"]["mean"] for arm in run["arms"]}
        assert losses["stage2"] < min(losses["stage1"], losses["stage2-mean"]), name
        assert losses["stage3-shuffled"] > losses["stage3"], name
        if name.startswith("personality_items"):
            assert run["preset"] == "calibrated"
            better = {
                (row["a"], row["metric"]): (row["low"], row["high"])
                for row in run["contrasts"]
                if (row["a"], row["b"]) in (("stage2", "stage1"), ("stage3", "oppu-mlp"))
                and row["level"] == "user"
            }
            for arm in ("stage2", "stage3"):
                assert better[arm, "accuracy"][0] > 0
                assert max(better[arm, "nll"][1], better[arm, "mae_expected"][1]) < 0
            assert run["arms"]["stage3"]["metrics"] == run["arms"]["stage2"]["metrics"]
            continue
        differences = [
            row
            for row in run["contrasts"]
            if (row["a"], row["b"]) == ("stage3", "oppu-mlp")
            and row["metric"] in ("accuracy", "nll")
        ]
        assert len(differences) == 4, "two metrics at two levels"
        assert all(row["low"] <= 0 <= row["high"] for row in differences), name
        if name.startswith("movie_ratings"):
            right = {arm: run["arms"][arm]["metrics"]["accuracy"]["mean"] for arm in run["arms"]}
            assert losses["stage3"] > losses["stage2"], name
            assert right["stage3"] >= right["stage2"], name
