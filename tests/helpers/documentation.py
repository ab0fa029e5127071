"""The code blocks of the documentation, and the commands in them."""

import dataclasses
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[2]
PAGES = (
  "README.md",
  "CONTRIBUTING.md",
  "benchmarks/README.md",
  *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")),
)
_FENCE = re.compile(
  r"(?:^<!-- (?P<note>[^>]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$",
  re.DOTALL | re.MULTILINE,
)
_HEREDOC = re.compile(r"<<'(\w+)'")


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block; `note` is the HTML comment above it, if there is one."""

  page: str
  line: int
  kind: str
  note: str
  text: str

  @property
  def runs(self) -> bool:
    """Whether it is to be run; a comment above it says why not."""
    return self.kind in ("bash", "python") and not self.note

  @property
  def where(self) -> str:
    return f"{self.page}:{self.line}"

  def commands(self) -> list[str]:
    """Its commands, each with its continuation lines and here-documents."""
    found: list[str] = []
    end = None
    for line in self.text.replace("\\\n", " ").splitlines():
      if end is not None:
        found[-1] += f"\n{line}"
        end = None if line == end else end
      elif line.strip() and not line.lstrip().startswith("#"):
        found.append(line.strip())
        if opened := _HEREDOC.search(line):
          end = opened[1]
    return found


def read_blocks(page: str) -> list[Block]:
  """The fenced blocks of a page, in order."""
  text = (ROOT / page).read_text(encoding="utf-8")
  return [
    Block(
      page,
      text.count("\n", 0, match.start("kind")) + 1,
      match["kind"],
      match["note"] or "",
      match["text"],
    )
    for match in _FENCE.finditer(text)
  ]


def find_xqg(command: str) -> list[str] | None:
  """What follows `xqg` in a command of a shell, wherever that stands.

  >>> find_xqg("srun xqg train --gin.MODEL_DIR='a b'  # on each")
  ['train', '--gin.MODEL_DIR=a b']
  >>> find_xqg("pip install -e '.[tasks]'")
  """
  match = re.search(r"(?:^|[\s/])xqg (?=[a-z-])(.*)", command)
  if match is None:
    return None
  try:
    return shlex.split(match[1], comments=True)
  except ValueError:  # it stood in quotes itself
    return shlex.split(match[1].rstrip().removesuffix("'"), comments=True)
