"""The signs of an unwell query generator, on hand-made queries."""

from xqg_jax.data.passages import Passage
from xqg_jax.generation.health import (
  LENGTHS,
  SIGNS,
  add_counts,
  count_signs,
  find_faults,
  to_shares,
)

PASSAGE = Passage("1", "Como lies in the Alps.", title="Lake Como")


def _count(queries):
  return {
    language: {
      name: count
      for name, count in row.items()
      if count and name not in LENGTHS
    }
    for language, row in count_signs(PASSAGE, queries).items()
  }


def test_each_sign():
  assert _count(
    {
      "ru": ["Где озеро Комо?", "где  озеро КОМО?", "", "Where is it?"],
      "fi": ["lake como como lies", "<extra_id_0>", "Missä Como on?"],
    }
  ) == {
    "ru": {"queries": 4, "duplicate": 1, "empty": 1, "wrong_script": 1},
    "fi": {"queries": 3, "copy": 1, "sentinel": 1},
  }


def test_duplicates_are_found_across_languages():
  assert _count({"fi": ["Missä?"], "ru": ["Missä?"]})["ru"] == {
    "queries": 1,
    "duplicate": 1,
    "wrong_script": 1,
  }


def test_text_without_letters_is_in_no_script():
  assert _count({"te": ["1912?"]})["te"]["wrong_script"] == 1


def test_counts_add_up_and_become_shares():
  one = count_signs(PASSAGE, {"fi": ["", "Missä Como on?"]})
  two = count_signs(PASSAGE, {"fi": ["a b"], "ru": ["где?"]})
  counts = add_counts([one, two])
  assert counts["fi"]["queries"] == 3
  shares = to_shares(counts)
  assert list(shares) == ["fi", "ru", "all"]
  assert shares["fi"]["empty"] == 0.333333
  assert shares["all"]["empty"] == 0.25
  assert set(shares["all"]) == {*SIGNS, *LENGTHS}


def test_lengths_fall_into_ranges():
  row = count_signs(
    PASSAGE, {"fi": ["", "a" * 7, "b" * 8, "c" * 127, "d" * 128]}
  )
  found = {name: row["fi"][name] for name in LENGTHS if row["fi"][name]}
  assert found == {
    "characters_0_7": 2,
    "characters_8_15": 1,
    "characters_64_127": 1,
    "characters_128_and_more": 1,
  }


def test_faults_need_a_share_and_a_number():
  row = dict.fromkeys(("queries", *SIGNS), 0)
  ru = row | {"queries": 40, "wrong_script": 20, "unfinished": 23}
  assert find_faults({"fi": row | {"queries": 60}, "ru": ru}) == {
    "fi": [],
    "ru": ["50% wrong script"],
    "all": [],
  }
  assert not find_faults({"fi": row | {"queries": 4, "empty": 4}})["fi"]
  whole = {"fi": row | {"queries": 5, "empty": 5, "sentinel": 5}}
  assert find_faults(whole)["all"] == ["100% empty", "100% sentinel"]
