"""The documentation site: its pages, their links, and the reference."""

import re

import pytest

import xqg_jax
from tests.helpers.documentation import ROOT
from tests.helpers.shipped_scripts import load_script

pytest.importorskip("griffe", reason="needs the extra docs")


@pytest.fixture(scope="module")
def site():
  return load_script("documentation_site")


@pytest.fixture(scope="module")
def reference(site):
  return site.write_reference()


@pytest.mark.parametrize(
  ("link", "source", "place", "expected"),
  [
    ("docs/road.svg", "README.md", "index.md", "road.svg"),
    ("docs/guide/data.md#a", "README.md", "index.md", "guide/data.md#a"),
    ("CONTRIBUTING.md", "README.md", "index.md", "contributing.md"),
    ("../guide/data.md", "docs/design/x.md", "design/x.md", "../guide/data.md"),
    ("../docs/x.md", "benchmarks/README.md", "benchmarks.md", "x.md"),
    ("https://a.org/b", "README.md", "index.md", "https://a.org/b"),
    ("#here", "README.md", "index.md", "#here"),
  ],
)
def test_links_lead_to_the_same_page(site, link, source, place, expected):
  moved = site.move_links(f"see [it]({link}).", source, place)
  assert moved == f"see [it]({expected})."


def test_a_file_that_is_no_page_loses_its_link(site):
  assert site.move_links("[a](../../setup.py)", "docs/guide/b.md", "b") == "a"


def test_every_public_name_is_in_the_reference(reference):
  listed = [
    path.rpartition(".")[2]
    for page in ("verbs", "nouns")
    for path in re.findall(
      r"^::: (\S+)$", reference[f"reference/{page}.md"], re.M
    )
  ]
  assert sorted(listed) == xqg_jax.__all__
  for name in xqg_jax.__all__:
    assert f"[`{name}`]" in reference["reference/index.md"]


def test_every_module_is_listed_with_what_it_is(reference):
  page = reference["reference/modules.md"]
  rows = dict(re.findall(r"^\| `(\w+\.py)` \| (.*) \|$", page, re.M))
  names = {
    path.name
    for folder in ("xqg_jax", "tasks")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
  }
  assert set(rows) == names
  assert all(rows.values())


def test_every_gin_file_is_listed_by_its_first_sentence(reference):
  page = reference["reference/configs.md"]
  for file in (ROOT / "gin_configs").rglob("*.gin"):
    name = str(file.relative_to(ROOT / "gin_configs"))
    assert re.search(rf"^\| `{re.escape(name)}` \| \w.* \|$", page, re.M), name


def test_every_page_is_in_the_navigation():
  nav = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
  nav = nav.partition("\ntheme:")[0]
  for page in (ROOT / "docs").rglob("*.md"):
    assert f" {page.relative_to(ROOT / 'docs')}\n" in nav, page
