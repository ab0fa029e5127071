"""JSON by declared schema: what the line about a bad value says."""

import ast
import pathlib
from typing import Any, Literal, NotRequired, TypedDict

import pytest

import xqg_jax
from xqg_jax.errors import InputError
from xqg_jax.io.files import read_json
from xqg_jax.io.locations import Location
from xqg_jax.io.typed_json import Count, check_json, decode_json, refuse_unknown

PACKAGE = pathlib.Path(xqg_jax.__file__).parent


class Shard(TypedDict):
  rows: Count
  dtype: Literal["float32", "bfloat16"]


class Manifest(TypedDict):
  shards: list[Shard]
  note: NotRequired[str | None]


GOOD = '{"shards": [{"rows": 2, "dtype": "float32"}], "more": [1, {}]}'


def _fail(content: bytes | str) -> str:
  with pytest.raises(InputError) as error:
    decode_json(content, Manifest, where="m.json")
  return str(error.value)


def test_fields_that_the_schema_does_not_name_stay():
  expected = {"shards": [{"rows": 2, "dtype": "float32"}], "more": [1, {}]}
  assert decode_json(GOOD, Manifest, where="m.json") == expected
  assert decode_json("\ufeff" + GOOD, Manifest, where="m.json") == expected


@pytest.mark.parametrize(
  ("content", "line"),
  [
    (
      GOOD.replace(": 2", ': "2"'),
      "shards[0].rows: expected a whole number, found",
    ),
    (
      GOOD.replace(": 2", ": " + "2.5"),
      "shards[0].rows: expected a whole number, found",
    ),
    (
      GOOD.replace(": 2", ": " + "true"),
      "shards[0].rows: expected a whole number, foun",
    ),
    (
      GOOD.replace(": 2", ": " + "-2"),
      "shards[0].rows: expected a whole number >= 0",
    ),
    (
      GOOD.replace(": 2", ": " + "1" * 60),
      "shards[0].rows: expected a whole number <=",
    ),
    (
      GOOD.replace(": 2", ": " + "9" * 5000),
      "shards[0].rows: integer value out of rang",
    ),
    (
      GOOD.replace("[1", "[" + "9" * 5000),
      "[...][0]: integer value out of range",
    ),
    (GOOD.replace('"rows": 2, ', ""), "shards[0]: lacks the field rows"),
    (
      GOOD.replace("float32", "int8"),
      "shards[0].dtype: invalid enum value 'in",
    ),
    (GOOD.replace("more", "note"), "note: expected text or null, found a list"),
    ("[]", "expected an object, found a list"),
    ("{}", "lacks the field shards"),
    (GOOD[:-1], "not valid JSON (it ends too early)"),
    (GOOD.replace("[1", "[NaN"), "not valid JSON (NaN is no number of JSON)"),
    (GOOD.replace("[1", "[-Infinity"), "not valid JSON (Infinity is no number"),
    (GOOD.replace("more", "\\ud83d more"), "not valid JSON (half a character)"),
    (GOOD.replace("more", "\ud83d more"), "not valid JSON (Invalid UTF-8"),
    (b'{"\xff": 1}', "not valid JSON ("),
    ('{"more": ' + "[" * 9000, "not valid JSON (nested too deeply)"),
  ],
)
def test_one_line_names_file_and_field(content, line):
  if isinstance(content, str):
    content = content.encode("utf-8", "surrogatepass")
  message = _fail(content)
  assert message.startswith(f"m.json: {line}")
  assert message.endswith("; write it again")
  assert "\n" not in message
  assert len(message) < 200


def test_text_with_half_a_character():
  assert "half a character" in _fail('{"\ud83d": 1}')


def test_unknown_fields_of_settings_are_refused():
  refuse_unknown({"rows": 1}, Shard, where="s.json")
  with pytest.raises(InputError, match=r"s\.json: unknown field 'new'"):
    refuse_unknown({"rows": 1, "new": 2}, Shard, where="s.json")


def test_files_and_locations_are_read_alike(tmp_path):
  path = tmp_path / "m.json"
  assert Location.of(path).read_json(Manifest) is None
  path.write_text(GOOD)
  assert Location.of(path).read_json(Manifest) == read_json(path, Manifest)
  path.write_text("{}")
  for read in (Location.of(path).read_json, lambda s: read_json(path, s)):
    with pytest.raises(InputError, match=r"m\.json: lacks the field shards"):
      read(Manifest)


def test_a_value_in_memory_is_checked_alike():
  with pytest.raises(InputError, match=r"^m: shards: expected a list"):
    check_json({"shards": 1}, Manifest, where="m")


# Where JSON is parsed that no file of ours or of a model holds: lines of data,
# whose readers name fields in their own words; a claim, compared as it would be
# read; arrays, read entry by entry; a pipe to a process of our own.
OTHERS = {
  "files.py",
  "claims.py",
  "shared_claims.py",
  "json_arrays.py",
  "worker.py",
}


def _list_calls(path: pathlib.Path) -> list[ast.Call]:
  tree = ast.parse(path.read_text(encoding="utf-8"))
  return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _name(call: ast.Call) -> str:
  return getattr(call.func, "attr", None) or getattr(call.func, "id", "")


@pytest.mark.parametrize(
  "path",
  sorted(PACKAGE.rglob("*.py")),
  ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_every_json_is_read_by_a_schema(path):
  calls = _list_calls(path)
  if path.name not in OTHERS:
    assert not [c.lineno for c in calls if _name(c) in ("loads", "JSONDecoder")]
  for call in calls:
    if _name(call) == "read_json":
      of_location = isinstance(call.func, ast.Attribute)
      assert len(call.args) == (1 if of_location else 2), call.lineno


def test_untyped_reading_takes_any_value(tmp_path):
  (tmp_path / "a.json").write_text("[1, null]")
  found: Any = read_json(tmp_path / "a.json")
  assert found == [1, None]
