"""Any JSON value in any field of any file read back: nothing but InputError.

Every reader is given its file with one field replaced, added or left out. It
may read what it is given or refuse it in a line, and nothing else.
"""

import copy
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.tiny_collection import make_tokenizer
from tests.helpers.tiny_store import read_record, write_store
from xqg_jax.augmentation.language_means import measure_means, read_means
from xqg_jax.augmentation.views import open_view
from xqg_jax.checkpoints.dual_encoders import _read_stated
from xqg_jax.checkpoints.hugging_face.sentence_transformers import (
  read_pooling,
  read_projection_config,
)
from xqg_jax.checkpoints.hugging_face.tensors import _read_shards
from xqg_jax.checkpoints.query_generators import _read_config, _read_task
from xqg_jax.checkpoints.t5x.layouts import _read_orbax
from xqg_jax.errors import InputError
from xqg_jax.evaluation.report.page import _describe_losses
from xqg_jax.evaluation.report.provenance import describe_configs, find_folders
from xqg_jax.evaluation.results import (
  load_evaluation,
  read_examples,
  read_inputs,
)
from xqg_jax.evaluation.search_folder import read_searched
from xqg_jax.evaluation.variants import read_variant
from xqg_jax.generation.health import (
  LENGTHS,
  SIGNS,
  SampleRecord,
  add_counts,
  find_faults,
  format_health,
)
from xqg_jax.indexes.kinds import open_index
from xqg_jax.io.claims import claim_output_dir
from xqg_jax.io.files import read_json
from xqg_jax.io.locations import Location
from xqg_jax.io.sealed_folders import find_damage
from xqg_jax.models.encoder_families import read_encoder_config
from xqg_jax.models.t5.config import T5Config
from xqg_jax.seqio_data.vocabularies import _read_extra_ids
from xqg_jax.stages.augment import augment
from xqg_jax.stages.index import build_index
from xqg_jax.stages.plan import Plan, format_plan
from xqg_jax.stages.store_info import describe_store
from xqg_jax.stages.tune_alpha import Tuning, _format
from xqg_jax.store.shards import ShardArrays
from xqg_jax.text.tokenizer import load_tokenizer
from xqg_jax.training.checkpoints import read_pending_metrics
from xqg_jax.training.metrics import _read_rows

SHA = "0" * 64
CELL = {"value": 50.0, "n": 2}
OTHER = {**CELL, "difference": 1.0, "interval": [0.0, 2.0], "p": 0.5}
LANGUAGE = {**CELL, "difference": 1.0, "p": 0.5, "p_holm": 0.5}
PASSAGE = {"id": "p1", "title": "Oulu", "text": "a city", "has_answer": True}
STEP = {
  "batch_size": 8,
  "num_partitions": 1,
  "num_devices": 4,
  "unit": "examples",
  "fits": True,
  "bytes_per_chip": {"parameters": 8.0, "total": None},
  "flops_per_step": 1e12,
  "memory_traffic_per_chip": 1.0,
  "sent_bytes_per_chip": {"all-reduce": 2.0},
  "seconds": {"compute": 0.1},
  "bound": "compute",
  "units_per_second": 80.0,
}
BERT = {
  "model_type": "bert",
  "vocab_size": 40,
  "hidden_size": 8,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "intermediate_size": 16,
  "hidden_act": "gelu",
  "pad_token_id": 0,
  "layer_norm_eps": 1e-12,
  "is_decoder": False,
}
T5 = {
  "model_type": "mt5",
  "feed_forward_proj": "gated-gelu",
  "vocab_size": 40,
  "d_model": 8,
  "num_heads": 2,
  "d_kv": 4,
  "d_ff": 16,
  "num_layers": 1,
  "dropout_rate": 0.1,
  "pad_token_id": 0,
  "eos_token_id": 1,
  "tie_word_embeddings": False,
}
COUNTS = {"fi": dict.fromkeys(("queries", *SIGNS, *LENGTHS), 1)}


# ------------------------------------------------------------------- the files


def _store(folder: pathlib.Path) -> None:
  arrays = ShardArrays(
    ["p1", "p2"],
    np.eye(2, 4, dtype=np.float32),
    np.ones((2, 1, 4), np.float32),
    np.ones((2, 1), np.int32),
  )
  write_store(folder / "store", arrays)


def _read_store(folder: pathlib.Path) -> None:
  view = open_view(folder / "store")
  describe_store(store=folder / "store")
  assert sum(len(vectors) for _, vectors in view.blocks(8)) <= 2


def _view(folder: pathlib.Path) -> None:
  _store(folder)
  augment(
    store=folder / "store",
    output_dir=folder / "view",
    alpha=0.5,
    reduction="mean",
  )
  path = folder / "view" / "view.json"
  means = {"passage": [0.0] * 4, "query": [1.0] * 4}
  path.write_text(json.dumps(json.loads(path.read_text()) | {"means": means}))


def _read_view(folder: pathlib.Path) -> None:
  for _ in open_view(folder / "view").blocks(8):
    pass


def _index(folder: pathlib.Path) -> None:
  _store(folder)
  build_index(
    embeddings=folder / "store", output_dir=folder / "index", kind="exact"
  )


def _read_index(folder: pathlib.Path) -> None:
  with open_index(folder / "index") as index:
    index.search(np.ones((1, 4), np.float32), 1)
    assert index.passage_ids == ["p1", "p2"]


def _scann(folder: pathlib.Path, **parts: Any) -> None:
  manifest = {
    "format_version": 1,
    "kind": "scann",
    "num_passages": 2,
    "dim": 4,
    "embeddings": "../store",
    "embeddings_fingerprint": SHA,
    "encoder_fingerprint": SHA,
    "passage_ids": SHA,
    "notes": ["a note"],
  }
  part = {"parameters": _parameters(), "assets": {"a.npy": SHA}}
  shards = [{"name": "scann", "start": 0, "rows": 2, **part}]
  (folder / "scann.index").mkdir()
  _dump(
    folder / "scann.index" / "manifest.json",
    manifest | (parts or {"shards": shards}),
  )


def _parameters() -> dict[str, Any]:
  return {"num_leaves": 1, "num_leaves_to_search": 1, "num_reordered": 10}


def _updated(folder: pathlib.Path) -> None:
  files = dict.fromkeys(("base_rows.npy", "fresh.npy", "fresh_rows.npy"), SHA)
  _scann(folder, base_index="../b", base_fingerprint=SHA, files=files)


def _read_scann(folder: pathlib.Path) -> None:
  with open_index(folder / "scann.index") as index:
    index.search(np.ones((1, 4), np.float32), 1)


def _evaluation(folder: pathlib.Path) -> None:
  scores = folder / "scores"
  scores.mkdir()
  variants = {
    "base": _variant(CELL, CELL, None),
    "mine": _variant(OTHER, LANGUAGE, _augmentation()),
  }
  metrics = {
    "format_version": 1,
    "baseline": "base",
    "languages": ["fi"],
    "num_questions": 2,
    "settings": {"rounds": 100},
    "notes": ["a note"],
    "measures": [{"name": "RR@10", "label": "MRR@10"}],
    "variants": variants,
    "relevance": "answers",
  }
  _dump(scores / "metrics.json", metrics)
  row = {"id": "q1", "lang": "fi", "values": {"base": [0.5], "mine": [None]}}
  _dump(scores / "per_question.jsonl", row)
  example = {
    "id": "q1",
    "language": "fi",
    "question": "Missä?",
    "answers": ["Oulu"],
    "values": [0.0, 1.0],
    "passages": [[PASSAGE], [PASSAGE]],
  }
  names = {"variant": "mine", "baseline": "base", "measure": "RR@10"}
  _dump(scores / "examples.json", {**names, "won": [example], "lost": []})
  source = {"path": "q.jsonl", "sha256": SHA}
  _dump(
    scores / "manifest.json",
    {
      "stage": "evaluate",
      "inputs": {"questions": source, "runs": {"base": source}},
      "searches": {"base": {"k": 10}},
      "files": {"metrics.json": SHA},
    },
  )


def _variant(macro: Any, language: Any, augmentation: Any) -> dict[str, Any]:
  return {
    "augmentation": augmentation,
    "missing_questions": 0,
    "measures": {"RR@10": {"macro": macro, "languages": {"fi": language}}},
  }


def _augmentation() -> dict[str, Any]:
  return {"reduction": "sum", "alpha": 0.1, "languages": None, "num_queries": 2}


def _read_evaluation(folder: pathlib.Path) -> None:
  evaluation = load_evaluation(folder / "scores")
  assert evaluation.table
  assert len(evaluation.scores.question_ids) == 1
  read_examples(evaluation)
  read_inputs(evaluation)
  describe_configs(find_folders([evaluation], []), [])


def _search(folder: pathlib.Path) -> None:
  _store(folder)
  found = folder / "found"
  found.mkdir()
  (found / "run.trec").write_text("q1 Q0 p1 1 1.0 x\n")
  np.save(found / "question_embeddings.npy", np.ones((1, 4), np.float32))
  centering = {"means": "m", "means_fingerprint": SHA, "strength": 1.0}
  _dump(
    found / "manifest.json",
    {
      "format_version": 1,
      "index": "../index",
      "embeddings": "../store",
      "question_ids": ["q1"],
      "languages": ["fi"],
      "encoder_fingerprint": "e",
      "centering": {**centering, "by": "language"},
    },
  )


def _read_search(folder: pathlib.Path) -> None:
  read_variant("base", folder / "found")
  read_searched(folder / "found").uncentered()


def _claim(folder: pathlib.Path) -> None:
  claim_output_dir(folder / "out", stage="encode", arguments={"k": [1, None]})


def _files(**files: Any) -> Callable[[pathlib.Path], None]:
  """Writes files of a folder; `__` in a name stands for a dot."""

  def write(folder: pathlib.Path) -> None:
    for name, value in files.items():
      path = folder / name.replace("__", ".").replace("_in_", "/")
      path.parent.mkdir(exist_ok=True)
      _dump(path, value)

  return write


def _transformers(folder: pathlib.Path) -> None:
  make_tokenizer("bert").save(folder)
  kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
  modules = [
    {"type": f"sentence_transformers.models.{kind}", "path": path}
    for kind, path in kinds.items()
  ]
  _dump(folder / "modules.json", modules)
  _dump(folder / "sentence_bert_config.json", {"max_seq_length": 64})
  prompts = {"prompts": {"query": "query: ", "document": ""}}
  _dump(folder / "config_sentence_transformers.json", prompts)
  for path in ("1_Pooling", "2_Dense"):
    (folder / path).mkdir()
  _dump(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
  dense = {"out_features": 4, "bias": True, "use_residual": False}
  dense["activation_function"] = "torch.nn.modules.activation.Tanh"
  _dump(folder / "2_Dense/config.json", dense)


def _read_transformers(folder: pathlib.Path) -> None:
  read_pooling(folder, max_length=512)
  read_projection_config(folder)
  load_tokenizer(folder)


def _read_losses(folder: pathlib.Path) -> None:
  _read_rows(folder / "metrics.jsonl")
  _describe_losses(folder)


def _read_generator(folder: pathlib.Path) -> None:
  _read_task(folder)
  path = folder / "config.json"
  T5Config.from_hf(_read_config(folder), where=path)
  read_encoder_config(read_json(path, dict[str, Any]), where=path)


def _read_sample(folder: pathlib.Path) -> None:
  counts = read_json(folder / "health.json", SampleRecord)["counts"]
  add_counts([counts, counts])
  assert format_health(counts)
  find_faults(counts)


def _read_orbax_file(folder: pathlib.Path) -> None:
  item = Location.of(folder)
  _read_orbax(item, (folder / "_METADATA").read_bytes())


def _read_bert(folder: pathlib.Path) -> None:
  path = folder / "config.json"
  read_encoder_config(read_json(path, dict[str, Any]), where=path)


def _read_weights(folder: pathlib.Path) -> None:
  _read_shards(folder / "index.json")


def _means(folder: pathlib.Path) -> None:
  measure_means(np.ones((2, 4)), ["fi", "ko"]).write(folder)


PLAN = {
  "stage": "train",
  "topology": "v5e:2x2",
  "chip": "v5e",
  "memory_per_chip": 16e9,
  "step": STEP,
  "suggestion": None,
  "largest_batch": STEP,
}
TUNING = {
  "measure": "RR@10",
  "reduction": "sum",
  "alpha": 0.1,
  "curve": {"0": 1.0, "0.1": 2.0},
  "center": 1.0,
  "center_curve": {"0": 1.0, "1": 2.0},
  "cross_validated": {
    "value": 1.5,
    "alpha_0": 1.0,
    "optimistic": 2.0,
    "difference": 0.5,
    "interval": [0.1, 0.9],
    "p": 0.01,
  },
}
DUAL = {
  "pooling": "mean",
  "normalize": True,
  "query_prefix": "query: ",
  "query_length": 32,
  "projection": {"size": 4, "use_bias": True, "activation": "tanh"},
  "share_encoders": True,
}
ORBAX = {
  "tree_metadata": {
    "('params', 'scale')": {
      "key_metadata": [{"key": "params", "key_type": 2}, {"key": "scale"}],
      "value_metadata": {"value_type": "jax.Array"},
    }
  },
  "use_zarr3": False,
}

# Enough to go over the readers many times; thousands were tried once.
SOME = 200
# By name: what writes the files, and what reads them.
Write = Callable[[pathlib.Path], None]
READERS: dict[str, tuple[Write, Callable[[pathlib.Path], Any]]] = {
  "store": (_store, _read_store),
  "shard record": (_store, lambda f: read_record(f / "store", 0)),
  "view": (_view, _read_view),
  "index": (_index, _read_index),
  "scann": (_scann, _read_scann),
  "scann, whole": (
    lambda f: _scann(f, parameters=_parameters(), assets={"a": SHA}),
    _read_scann,
  ),
  "updated index": (_updated, _read_scann),
  "evaluation": (_evaluation, _read_evaluation),
  "search": (_search, _read_search),
  "claim": (_claim, _claim),
  "sealed folder": (
    _files(manifest__json={"files": {"a": {"size": 1, "sha256": SHA}}}),
    find_damage,
  ),
  "sentence-transformers": (_transformers, _read_transformers),
  "dual encoder": (
    _files(dual_encoder__json=DUAL),
    lambda f: _read_stated(f, None),
  ),
  "query generator": (
    _files(
      query_generator__json={"language_in": "prompt", "languages": ["fi"]},
      config__json=T5,
      generation_config__json={"eos_token_id": [1, 2]},
    ),
    _read_generator,
  ),
  "BERT": (_files(config__json=BERT), _read_bert),
  "vocabulary": (
    _files(tokenizer_config__json={"extra_ids": 0}),
    _read_extra_ids,
  ),
  "weights": (
    _files(index__json={"weight_map": {"a": "b.safetensors"}}),
    _read_weights,
  ),
  "orbax": (_files(_METADATA=ORBAX), _read_orbax_file),
  "means": (_means, read_means),
  "plan": (
    _files(plan__json=PLAN),
    lambda f: format_plan(read_json(f / "plan.json", Plan)),
  ),
  "tuning": (
    _files(tuning__json=TUNING),
    lambda f: _format(read_json(f / "tuning.json", Tuning)),
  ),
  "training metrics": (
    _files(metrics__jsonl={"step": 1, "loss": 2.0, "learning_rate": 0.1}),
    _read_losses,
  ),
  "pending metrics": (
    _files(checkpoint_3_in_metrics__json=[{"loss": 2.0}]),
    lambda f: read_pending_metrics(f, 3),
  ),
  "health": (
    _files(health__json={"counts": COUNTS, "examples": [{}]}),
    _read_sample,
  ),
}
# Refused as they are: files that they name are not there.
NOT_WHOLE = {"scann", "scann, whole", "search", "updated index", "weights"}


# ------------------------------------------------------------------ the changes


def _dump(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value) + "\n")


def _list_places(value: Any, place: tuple = ()) -> Iterator[tuple]:
  yield place
  items = {}
  if isinstance(value, dict):
    items = value
  elif isinstance(value, list):
    items = dict(enumerate(value))
  for key, item in items.items():
    yield from _list_places(item, (*place, key))


# Texts that take the place of a value as they are.
RAW = (
  *("NaN", "-Infinity", "1e999", "9" * 5000, "-1", "0", "0.5", "1e300"),
  *("[" * 3000, "[" * 900 + "]" * 900, '"\\ud800"', '"\ud800"', "", "nul"),
  *('"\\u0000"', '"\\u0000/a"', '"../x"', '""', '{"": ""}', "null", "true"),
  str(2**63),
)
VALUES = st.one_of(
  st.sampled_from(RAW),
  st.recursive(
    st.one_of(
      st.none(),
      st.booleans(),
      st.integers(),
      st.floats(allow_nan=False, allow_infinity=False),
      st.text(st.characters(exclude_characters="/:"), max_size=5),
    ),
    lambda inner: st.one_of(
      st.lists(inner, max_size=3),
      st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=5,
  ).map(json.dumps),
)
GONE = object()


def _change(content: Any, place: tuple, value: str | object) -> str:
  """A JSON text with another value at a place, or without it."""
  mark = "@changed@"
  holder = [copy.deepcopy(content)]
  *steps, last = (0, *place)
  inner = holder
  for step in steps:
    inner = inner[step]
  if value is GONE and len(steps):
    del inner[last]
    return json.dumps(holder[0])
  inner[last] = mark
  text = "" if value is GONE else value
  return json.dumps(holder[0]).replace(f'"{mark}"', text)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, pathlib.Path]:
  """A folder for each reader, with its files."""
  folders = {}
  for name, (write, _) in READERS.items():
    folders[name] = tmp_path_factory.mktemp("files")
    write(folders[name])
  return folders


def _list_files(folder: pathlib.Path) -> list[pathlib.Path]:
  paths = [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]
  paths += folder.rglob("_METADATA")
  is_ours = {"tokenizer.json": False, "zarr.json": False}
  return sorted(path for path in paths if is_ours.get(path.name, True))


@pytest.mark.parametrize("name", sorted(READERS))
def test_unchanged_files_are_read(written, name):
  read = READERS[name][1]
  if name in NOT_WHOLE:
    with pytest.raises(InputError):
      read(written[name])
  else:
    read(written[name])


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_field_that_is_gone(written, name):
  folder, read = written[name], READERS[name][1]
  for path in _list_files(folder):
    content = path.read_text()
    for place in _list_places(json.loads(content)):
      path.write_text(_change(json.loads(content), place, GONE))
      _read_or_refuse(read, folder)
    path.write_text(content)


@given(data=st.data())
@settings(
  max_examples=SOME,
  deadline=None,
  derandomize=True,
  suppress_health_check=list(HealthCheck),
)
def test_any_value_in_the_place_of_any_field(written, data):
  name = data.draw(st.sampled_from(sorted(READERS)))
  path = data.draw(st.sampled_from(_list_files(written[name])))
  content = path.read_text()
  document = json.loads(content)
  place = data.draw(st.sampled_from(list(_list_places(document))))
  changed = _change(document, place, data.draw(VALUES))
  path.write_bytes(f"{changed}\n".encode("utf-8", "surrogatepass"))
  try:
    _read_or_refuse(READERS[name][1], written[name])
  finally:
    path.write_text(content)


def _read_or_refuse(read: Callable, folder: pathlib.Path) -> None:
  try:
    read(folder)
  except InputError as error:
    line = str(error)
  else:
    return
  assert "\n" not in line
