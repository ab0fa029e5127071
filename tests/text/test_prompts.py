"""Long prompts: cut, counted, reported, and never a title alone."""

import dataclasses

import pytest
import seqio
import tensorflow as tf

import xqg_jax.tasks as tasks
from tests.helpers.tiny_collection import make_pairs, make_tokenizer
from tests.helpers.tiny_tasks import (
  DUAL_LENGTHS,
  GENERATION_LENGTHS,
  register_tiny_tasks,
)
from xqg_jax.data.languages import get_language
from xqg_jax.data.passages import Passage
from xqg_jax.data.training_pairs import write_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.seqio_data.batches import report_cut_prompts
from xqg_jax.seqio_data.preprocessors import (
  cut_prompts,
  to_prompt_and_question,
  tokenize_prompts,
)
from xqg_jax.text.prompts import cut_prompt, make_prompt, make_prompt_parts


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
  return register_tiny_tasks(tmp_path_factory.mktemp("tiny"))


def _cut(title, text, limit):
  """The prompt's tokens as the tasks cut them, and those of its parts."""
  passage = Passage("p", text, title)
  tokenizer = make_tokenizer("t5")
  parts = make_prompt_parts(passage, get_language("fi"))
  rows = [row[:-1] for row in tokenizer.encode_batch(parts, max_length=999)]
  dataset = tf.data.Dataset.from_tensors(
    {
      "query": "?",
      "language": "fi",
      "positive_titles": [title],
      "positive_texts": [text],
    }
  )
  features = seqio.get_mixture_or_task("tiny_generation_fi").output_features
  dataset = tokenize_prompts(to_prompt_and_question(dataset), features)
  dataset = cut_prompts(dataset, features, {"inputs": limit, "targets": 8})
  (example,) = dataset.as_numpy_iterator()
  return example, rows


def test_a_long_prompt_loses_the_end_of_its_passage():
  text = "The river flows north and north and north. " * 4
  example, (_, _, whole) = _cut("River", text, 20)
  assert example["is_cut"] == 1
  # One place is left for the end of sequence.
  assert example["inputs"].tolist() == whole[:19].tolist()
  example, (_, _, whole) = _cut("River", text, len(whole) + 1)
  assert example["is_cut"] == 0
  assert example["inputs"].tolist() == whole.tolist()


def test_a_long_title_never_stands_alone():
  title, text = "river " * 40, "The hill is deep."
  example, (instruction, head, whole) = _cut(title, text, 24)
  start, end = len(instruction), len(head)
  # 23 tokens to fill; the title gets what the short text leaves of them.
  kept = 23 - start - min(len(whole) - end, (23 - start + 1) // 2)
  expected = [*whole[: start + kept], *whole[end : end + 23 - start - kept]]
  assert example["inputs"].tolist() == expected
  (said,) = make_tokenizer("t5").decode_batch([example["inputs"]])
  assert said.startswith("Generate a Finnish question for this passage: river")
  assert "The hill" in said


def test_cutting_is_the_same_in_training_and_generation():
  title, text = "river " * 9, "The hill is deep and the lake is deep. " * 5
  for limit in (16, 20, 32):
    example, (instruction, head, whole) = _cut(title, text, limit)
    expected = cut_prompt(
      whole,
      num_instruction=len(instruction),
      num_head=len(head),
      limit=limit - 1,
    )
    assert example["inputs"].tolist() == expected.tolist()


def test_a_limit_without_room_is_refused():
  with pytest.raises(InputError, match="no passage fits in"):
    _cut("a", "b", 8)


def test_cut_prompts_are_counted_and_reported(capsys, tmp_path):
  lengths = {"inputs": 16, "targets": 8}
  far = Passage("x", "The river flows north. " * 9, "Lake")
  pairs = make_pairs()
  pairs[0] = dataclasses.replace(pairs[0], positives=(far,))
  with open(tmp_path / "train_pairs.jsonl", "w", encoding="utf-8") as file:
    write_training_pairs(file, pairs)
  tasks.local_generation(
    data_dir=tmp_path, tokenizer=make_tokenizer("t5"), name="far"
  )
  prompts = [
    make_prompt(pair.positives[0], get_language(pair.language))
    for pair in pairs
  ]
  rows = make_tokenizer("t5").encode_batch(prompts, max_length=999)
  expected = sum(len(row) > 16 for row in rows)
  assert 0 < expected < 16
  assert report_cut_prompts("far_generation", lengths) == (expected, 16)
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    f"far_generation: {expected} of 16 prompts have more than 16 tokens and "
    "lose the end of their passage"
  )
  # One task has 8 prompts, the two others 4: not all are looked at.
  found = report_cut_prompts("far_generation", lengths, max_examples=4)
  assert found[1] == 12
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"far_generation: {found[0]} of the first 12 prompts")
  assert report_cut_prompts("tiny_dual_encoder", DUAL_LENGTHS) == (0, 0)
  assert report_cut_prompts("tiny_generation", GENERATION_LENGTHS) == (0, 16)
  assert not capsys.readouterr().err
