"""Documentation site: pages made of the repository's own files, for mkdocs.

Hooks of mkdocs.yml. The first page and three others are files that lie outside
`docs/`; links are turned from paths in the repository into paths in the site,
so that the same files read well in both. The reference has the names of
`xqg_jax.__all__`, the modules by their docstrings, and the gin files by theirs.
"""

import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Any

import griffe

import xqg_jax
from xqg_jax.stages import STAGES

ROOT = pathlib.Path(__file__).parents[1]
# Files of the repository outside docs/ that are pages of the site.
PAGES = {
  "README.md": "index.md",
  "CONTRIBUTING.md": "contributing.md",
  "CHANGELOG.md": "changelog.md",
  "benchmarks/README.md": "benchmarks.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
  """Adds the pages that do not lie in docs/."""
  from mkdocs.structure.files import File

  pages = {
    place: (ROOT / source).read_text(encoding="utf-8")
    for source, place in PAGES.items()
  }
  for place, text in {**pages, **write_reference()}.items():
    files.append(File.generated(config, place, content=text))
  return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """Turns the links of a page into links of the site."""
  place = page.file.src_uri
  sources = {to: source for source, to in PAGES.items()}
  return move_links(markdown, sources.get(place, f"docs/{place}"), place)


def move_links(text: str, source: str, place: str) -> str:
  """Links between files of the repository as links between pages.

  A file that is no page is named without a link.

  Args:
    text: Markdown.
    source: the page's path in the repository.
    place: its path in the site.

  >>> move_links("[a](docs/guide/b.md#c)", "README.md", "index.md")
  '[a](guide/b.md#c)'
  >>> move_links("[a](../../README.md)", "docs/guide/b.md", "guide/b.md")
  '[a](../index.md)'
  >>> move_links("[a](../setup.py)", "docs/b.md", "b.md")
  'a'
  """

  def move(match: re.Match[str]) -> str:
    image, words, link, anchor = match.groups()
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path in PAGES:
      target = PAGES[path]
    elif path.startswith("docs/"):
      target = path.removeprefix("docs/")
    else:
      return words
    relative = os.path.relpath(target, posixpath.dirname(place) or ".")
    return f"{image}[{words}]({relative}{anchor or ''})"

  return _LINK.sub(move, text)


class DoctestFences(griffe.Extension):
  """Shows the examples in docstrings as code; for mkdocstrings."""

  def on_object(self, *, obj: Any, **_: Any) -> None:
    """Puts fences around the examples of a docstring."""
    if obj.docstring:
      obj.docstring.value = fence_examples(obj.docstring.value)


def fence_examples(text: str) -> str:
  r"""Fences around the examples of a docstring.

  >>> fence_examples(">>> 1 + 1\n2").split("\n")
  ['```pycon', '>>> 1 + 1', '2', '```']
  """
  blocks = text.split("\n\n")
  return "\n\n".join(
    f"```pycon\n{block}\n```" if block.startswith(">>> ") else block
    for block in blocks
  )


# ------------------------------------------------------------------ reference


def write_reference() -> dict[str, str]:
  """The pages of the reference, by their place in the site."""
  package = griffe.load("xqg_jax", search_paths=[str(ROOT)])
  verbs = {
    stage.function.replace(":", "."): verb for verb, stage in STAGES.items()
  }
  paths = [f"{xqg_jax._PUBLIC[name]}.{name}" for name in xqg_jax.__all__]
  names = {
    "Verbs": list(verbs),
    "Nouns": [path for path in paths if path not in verbs],
  }
  pages = {"index": _write_index(package, names, verbs)}
  for title, listed in names.items():
    blocks = [f"::: xqg_jax.{path}" for path in listed]
    pages[title.lower()] = _join(f"# {title}", *blocks)
  pages["modules"] = _write_modules(package)
  pages["configs"] = _write_configs(ROOT / "gin_configs")
  return {f"reference/{page}.md": text for page, text in pages.items()}


def _write_index(
  package: Any, names: dict[str, list[str]], verbs: dict[str, str]
) -> str:
  parts = [
    "# Reference",
    "`import xqg_jax as xqg`, then `xqg.NAME`: a name is loaded when it is "
    "first used. What is not listed here may change without notice.",
  ]
  for title, paths in names.items():
    rows = [
      (
        f"[`{path.rpartition('.')[2]}`][xqg_jax.{path}]",
        f"`xqg {verbs[path]}`" if path in verbs else "",
        package[path].docstring.lines[0],
      )
      for path in paths
    ]
    parts += [f"## {title}", _make_table(("name", "command", "what"), rows)]
  return _join(*parts)


def _write_modules(package: Any) -> str:
  parts = ["# Modules", "Every file of the package, by its first line."]
  folders = [package]
  while folders:
    folder = folders.pop(0)
    members = [m for m in folder.modules.values() if not m.is_alias]
    files = [m for m in members if not m.is_init_module]
    rows = [(f"`{m.name}.py`", _first_line(m)) for m in files]
    parts += [f"## `{folder.path.replace('.', '/')}/`", _first_line(folder)]
    if rows:
      parts.append(_make_table(("file", ""), sorted(rows)))
    packages = [m for m in members if m.is_init_module]
    folders[:0] = sorted(packages, key=lambda m: m.name)
  return _join(*parts)


def _first_line(module: Any) -> str:
  return module.docstring.lines[0] if module.docstring else ""


def _write_configs(folder: pathlib.Path) -> str:
  parts = [
    "# Gin files",
    "`xqg VERB` starts from `stages/VERB.gin`; `--gin_file=` lays others over "
    "it, by their path below.",
  ]
  for place in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
    rows = [
      (f"`{file.relative_to(folder)}`", _first_sentence(file))
      for file in sorted(place.glob("*.gin"))
    ]
    if rows:
      title = place.name if place != folder else "For several verbs"
      parts += [f"## {title}", _make_table(("file", ""), rows)]
  return _join(*parts)


def _first_sentence(file: pathlib.Path) -> str:
  lines = file.read_text(encoding="utf-8").split("\n#\n")[0].splitlines()
  words = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
  return re.split(r"(?<=[.:]) (?=[A-Z])", words)[0].rstrip(".")


def _make_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _join(*parts: str) -> str:
  return "\n\n".join([*parts, ""])
