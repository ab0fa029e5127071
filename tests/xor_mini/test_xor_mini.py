"""The generated collection: bytes, split, answers, scripts."""

import collections
import itertools
import re
import string
import unicodedata

import pytest

from xqg_jax.data.languages import LANGUAGES, XOR_TYDI_LANGUAGES, is_in_script
from xqg_jax.data.passages import read_passages
from xqg_jax.data.questions import read_questions
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.io.files import sha256_file
from xqg_jax.xor_mini import iter_passages, make_xor_mini
from xqg_jax.xor_mini.draws import Draws, Permutation
from xqg_jax.xor_mini.entities import NUM_ENTITIES, Entities
from xqg_jax.xor_mini.generator import Collection
from xqg_jax.xor_mini.names import (
  NUM_NAMES,
  SYLLABLES,
  Names,
  Word,
  spell,
  transliterate,
)
from xqg_jax.xor_mini.templates import ENTITY_TYPES, QUESTIONS
from xqg_jax.xor_mini.templates.en import Amount

FILES = (
  "passages.tsv",
  "train_pairs.jsonl",
  "questions_train.jsonl",
  "questions_dev.jsonl",
  "qrels_dev.tsv",
)

# First digits of the SHA-256 of 200 passages with seed 0.
GOLDEN = {
  "passages.tsv": "67a462109496",
  "train_pairs.jsonl": "fbab1fd84369",
  "questions_train.jsonl": "6c1afe969743",
  "questions_dev.jsonl": "ada5d8e0e4dc",
  "qrels_dev.tsv": "ffafc5e7874c",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("xor_mini") / "made"
  make_xor_mini(output_dir=path, num_passages=600, seed=3)
  return path


@pytest.fixture(scope="module")
def passages(folder):
  rows = read_passages(folder / "passages.tsv")
  return {p.passage_id: p for p in rows}


@pytest.fixture(scope="module")
def pairs(folder):
  return list(read_training_pairs(folder / "train_pairs.jsonl"))


@pytest.fixture(scope="module")
def dev_questions(folder):
  path = folder / "questions_dev.jsonl"
  return read_questions(path, require_answers=True)


@pytest.fixture(scope="module")
def qrels(folder):
  lines = (folder / "qrels_dev.tsv").read_text().splitlines()
  rows = [line.split("\t") for line in lines]
  assert {(row[1], row[3]) for row in rows} == {("0", "1")}
  assert len({row[0] for row in rows}) == len(rows)
  return {row[0]: row[2] for row in rows}


# --------------------------------------------------------------------- files


def test_same_bytes_on_every_machine(tmp_path):
  manifest = make_xor_mini(output_dir=tmp_path, num_passages=200, seed=0)
  assert {n: h[:12] for n, h in manifest["sha256"].items()} == GOLDEN
  for name in FILES:
    assert sha256_file(tmp_path / name) == manifest["sha256"][name]


def test_manifest_counts(folder, passages, pairs, dev_questions, qrels):
  manifest = make_xor_mini(output_dir=folder, num_passages=600, seed=3)
  assert len(passages) == manifest["num_passages"] == 600
  assert len(pairs) == manifest["num_train_questions"] == 420
  assert manifest["num_train_entities"] == 420
  assert manifest["num_dev_entities"] == 180
  assert len(dev_questions) == manifest["num_dev_questions"] == 7 * 180
  assert set(qrels) == {q.question_id for q in dev_questions}
  assert not list(folder.glob(".*.partial"))


def test_train_questions_are_those_of_the_pairs(folder, pairs):
  questions = read_questions(
    folder / "questions_train.jsonl", require_answers=True
  )
  assert {q.split for q in questions} == {"train"}
  assert [
    (q.question_id, q.question, q.language, q.answers) for q in questions
  ] == [(p.query_id, p.query, p.language, p.answers) for p in pairs]


def test_second_call_leaves_everything_and_another_is_refused(tmp_path):
  arguments = {"output_dir": tmp_path / "a", "num_passages": 200}
  first = make_xor_mini(**arguments)
  times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
  assert make_xor_mini(**arguments) == first
  assert times == {
    p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()
  }
  with pytest.raises(InputError, match="another seed"):
    make_xor_mini(**arguments, seed=1)


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
  arguments = {"output_dir": tmp_path / "a", "num_passages": 200}
  first = make_xor_mini(**arguments)
  kept = (tmp_path / "a" / "passages.tsv").stat().st_mtime_ns
  for name in ("manifest.json", "train_pairs.jsonl", "qrels_dev.tsv"):
    (tmp_path / "a" / name).unlink()
  assert make_xor_mini(**arguments) == first
  assert (tmp_path / "a" / "passages.tsv").stat().st_mtime_ns == kept


def test_a_damaged_file_is_told_of_and_made_again(tmp_path, capsys):
  arguments = {"output_dir": tmp_path / "a", "num_passages": 200}
  make_xor_mini(**arguments)
  before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
  (tmp_path / "a" / "qrels_dev.tsv").write_bytes(b"half")
  make_xor_mini(**arguments)
  assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
  assert "qrels_dev.tsv: differs from its checksum" in capsys.readouterr().err


def test_a_smaller_collection_begins_a_larger_one():
  small = list(iter_passages(200, seed=5))
  large = list(itertools.islice(iter_passages(1_000_000, seed=5), 200))
  assert small == large
  assert small != list(iter_passages(200, seed=6))


# --------------------------------------------------------------------- split


def test_no_dev_entity_in_training(passages, pairs, dev_questions, qrels):
  in_training = {
    p.passage_id for pair in pairs for p in pair.positives + pair.negatives
  }
  in_dev = set(qrels.values())
  assert len(in_dev) == 180
  assert not in_training & in_dev
  assert len({pair.positives[0].passage_id for pair in pairs}) == 420


def test_position_does_not_reveal_the_split(qrels):
  numbers = [int(passage_id) for passage_id in set(qrels.values())]
  by_third = collections.Counter((number - 1) // 200 for number in numbers)
  # 60 expected in each third; six standard deviations are about 33.
  assert all(27 <= by_third[third] <= 93 for third in range(3))


def test_every_answer_stands_in_its_passage(
  passages, pairs, dev_questions, qrels
):
  for question in dev_questions:
    text = passages[qrels[question.question_id]].text
    assert all(answer in text for answer in question.answers)
  for pair in pairs:
    assert passages[pair.positives[0].passage_id] == pair.positives[0]
    assert all(answer in pair.positives[0].text for answer in pair.answers)


def test_answers_rarely_stand_in_other_passages(passages, dev_questions, qrels):
  chance = sum(
    question.answers[0] in passage.text
    for question in dev_questions[::5]
    for passage in passages.values()
    if passage.passage_id != qrels[question.question_id]
  )
  assert chance <= 0.03 * len(dev_questions[::5])


def test_negatives_are_others_without_the_answer(passages, pairs):
  for pair in pairs:
    ids = [p.passage_id for p in (*pair.positives, *pair.negatives)]
    assert len(set(ids)) == len(ids) == 4
    for negative in pair.negatives:
      assert passages[negative.passage_id] == negative
      assert not any(answer in negative.text for answer in pair.answers)


def test_one_question_per_language_and_dev_entity(dev_questions, qrels):
  counts = collections.Counter(
    (q.language, qrels[q.question_id]) for q in dev_questions
  )
  assert set(counts.values()) == {1}


def test_more_train_questions_than_entities_never_repeat():
  collection = Collection(
    200,
    0,
    languages=("fi", "te"),
    num_train_questions=280,
    num_dev_questions_per_language=5,
  )
  asked = [
    (q.language, e.number, q.answers) for q, e in collection.train_questions()
  ]
  assert len(set(asked)) == 280
  assert len({number for _, number, _ in asked}) == 140
  dev = [q.language for q, _ in collection.dev_questions()]
  assert dev == ["fi"] * 5 + ["te"] * 5


# -------------------------------------------------------------------- wording


def test_questions_are_in_their_script(pairs, dev_questions):
  asked = [(q.language, q.question) for q in dev_questions]
  asked += [(pair.language, pair.query) for pair in pairs]
  assert {code for code, _ in asked} == set(XOR_TYDI_LANGUAGES)
  for code, text in asked:
    assert is_in_script(text, LANGUAGES[code])
    for letter in filter(str.isalpha, text):
      script = unicodedata.name(letter).split(" ")[0]
      # The mark of a long vowel is shared by both Japanese syllabaries.
      expected = (*LANGUAGES[code].scripts, "KATAKANA-HIRAGANA")
      assert script in expected, (letter, text)


def test_questions_hold_the_name_in_their_script():
  entities = Entities(0)
  for number in range(30):
    entity = entities[number]
    assert entity.passage.title == spell(entity.name)
    for code in XOR_TYDI_LANGUAGES:
      for attribute in entity.answers:
        question = entity.ask(attribute, code, Draws(number))
        assert transliterate(entity.name, code) in question
        assert "{" not in question


def test_every_attribute_is_asked_in_every_language():
  assert len(ENTITY_TYPES) >= 6
  for code in XOR_TYDI_LANGUAGES:
    assert set(QUESTIONS[code]) == set(ENTITY_TYPES)
    for type_name, entity_type in ENTITY_TYPES.items():
      asked = QUESTIONS[code][type_name]
      assert list(asked) == list(entity_type.attributes)
      for phrasings in asked.values():
        assert 2 <= len(set(phrasings)) == len(phrasings) <= 4
        assert all(text.count("{name}") == 1 for text in phrasings)
        for text in phrasings:
          stripped = text.replace("{name}", "")
          assert code == "fi" or not set(string.ascii_letters) & set(stripped)


def test_no_phrasing_asks_for_two_things():
  for code, by_type in QUESTIONS.items():
    texts = [
      text for asked in by_type.values() for ts in asked.values() for text in ts
    ]
    assert len(set(texts)) == len(texts), code


def test_sentences_state_their_value():
  for entity_type in ENTITY_TYPES.values():
    assert 6 <= len(entity_type.attributes) <= 8
    for opening in entity_type.openings:
      assert opening.startswith("{name} ")
      assert "{place}" in opening
    for attribute in entity_type.attributes.values():
      assert 2 <= len(attribute.sentences) <= 4
      assert all(s.count("{value}") == 1 for s in attribute.sentences)


def test_amounts_of_a_unit_cannot_hold_one_another():
  for entity_type in ENTITY_TYPES.values():
    for attribute in entity_type.attributes.values():
      if isinstance(attribute.value, Amount):
        low, high = attribute.value.low, attribute.value.high
        assert low >= 1000
        assert len(str(low)) == len(str(high))


def test_passages_are_short_and_state_most_facts():
  counts, facts = [], []
  entities = Entities(1)
  for number in range(1000):
    entity = entities[number]
    counts.append(len(entity.passage.text.split()))
    facts.append(len(entity.answers))
    for answer in entity.answers.values():
      assert entity.passage.text.count(answer) == 1
  assert min(counts) >= 45
  assert max(counts) <= 60
  assert min(facts) >= 4
  assert max(facts) <= 6


def test_painters_live_a_plausible_time():
  entities = Entities(0)
  checked = 0
  for number in range(200):
    answers = entities[number].answers
    if "birth_date" in answers and "death_date" in answers:
      born, died = (
        int(answers[a].split()[-1]) for a in ("birth_date", "death_date")
      )
      assert 31 <= died - born <= 84
      checked += 1
  assert checked > 5


def test_one_passage_word_for_word():
  entity = Entities(0)[3]
  assert entity.type_name == "museum"
  assert entity.passage.title == "Mugun Mushan"
  assert entity.passage.text.startswith(
    "Mugun Mushan is a museum of folk art from Losha Kolon. "
    "Its architect was Lisan Pitaran. "
  )
  assert entity.answers["collection_size"] == "90,907 objects"


# ---------------------------------------------------------------------- names


def test_names_are_unique_among_20_000_entities():
  names = Names(0)
  spelled = {names.spell(16 * number) for number in range(20_000)}
  assert len(spelled) == 20_000
  assert spelled.isdisjoint(names.spell(16 * n + 1) for n in range(20_000))
  assert names.spell(16 * 7) == Entities(0)[7].passage.title


def test_words_differ_in_every_script():
  words = Names(0).words
  for code in XOR_TYDI_LANGUAGES:
    pairs = zip(words[::2], words[1::2], strict=True)
    separator = "・" if code == "ja" else " "
    texts = [w for p in pairs for w in transliterate(p, code).split(separator)]
    assert len(set(texts)) == len(words) == 4096, code
  assert len({word.english for word in words}) == 4096


def test_names_suffice_for_the_largest_collection():
  assert NUM_ENTITIES >= 1_000_000
  names = Names(0)
  assert names.spell(NUM_NAMES - 1) == spell(names[NUM_NAMES - 1])
  with pytest.raises(IndexError):
    names.spell(NUM_NAMES)


def test_syllables_differ_in_every_script():
  for code in XOR_TYDI_LANGUAGES:
    texts = [row[code] for row in SYLLABLES.values()]
    assert len(set(texts)) == len(SYLLABLES)


@pytest.mark.parametrize(
  ("code", "expected"),
  [
    ("ar", "شونين تشاغا"),
    ("bn", "শোনিন চাগা"),
    ("fi", "Šonin Tšaga"),
    ("ja", "ショニン・チャガ"),
    ("ko", "쇼닌 차가"),
    ("ru", "Шонин Чага"),
    ("te", "షోనిన్ చాగా"),
  ],
)
def test_transliterations_by_hand(code, expected):
  name = (Word(("sho", "ni"), True), Word(("cha", "ga"), False))
  assert spell(name) == "Shonin Chaga"
  assert transliterate(name, code) == expected


def test_names_share_words_but_not_all():
  words = [p.title.split() for p in iter_passages(3000)]
  assert all(re.fullmatch(r"[A-Z][a-z]+", w) for pair in words for w in pair)
  counts = collections.Counter(first for first, _ in words)
  shared = sum(counts[first] > 1 for first, _ in words) / len(words)
  assert 0.4 < shared < 0.7


# ---------------------------------------------------------------------- draws


@pytest.mark.parametrize("size", [1, 2, 5, 200, 4096, 5000])
def test_permutation_is_a_bijection(size):
  shuffle = Permutation(size, "key")
  assert sorted(map(shuffle, range(size))) == list(range(size))
  if size >= 200:
    kept = sum(shuffle(i) == i for i in range(size))
    assert kept < 12  # one expected
    with pytest.raises(IndexError):
      shuffle(size)


def test_draws_are_even_and_outlast_one_hash():
  draws = Draws("key")
  counts = collections.Counter(draws.below(7) for _ in range(7000))
  assert set(counts) == set(range(7))
  assert all(820 < count < 1180 for count in counts.values())
  assert sorted(draws.shuffled("abc")) == ["a", "b", "c"]
  assert {draws.between(3, 4) for _ in range(50)} == {3, 4}


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"num_passages": 199}, "num_passages is 199"),
    ({"num_passages": 1_000_001}, "num_passages is 1000001"),
    ({"num_train_questions": 0}, "num_train_questions is 0"),
    ({"num_train_questions": 7 * 140 + 1}, "num_train_questions is 981"),
    ({"num_dev_questions_per_language": 0}, "per_language is 0"),
    ({"languages": ("ru", "sw")}, "'sw'"),
    ({"languages": ()}, "languages are none"),
    ({"languages": ("ru", "ru")}, "each once"),
  ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, message):
  with pytest.raises(InputError, match=message):
    make_xor_mini(
      output_dir=tmp_path / "out", **{"num_passages": 200, **arguments}
    )
  assert not (tmp_path / "out").exists()


def test_iter_passages_checks_at_once():
  with pytest.raises(InputError, match="num_passages is 10"):
    iter_passages(10)
