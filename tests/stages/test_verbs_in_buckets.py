"""Every verb with input and output in a bucket, compared with local folders."""

import contextlib
import json
import re

import numpy as np
import pytest

from tests.helpers import tiny_generator, tiny_store
from tests.helpers.tiny_dual_encoder import make_texts, write_checkpoint
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.files import read_json
from xqg_jax.models.bert.encoder import BertConfig
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.stages import STAGES, plan, serve
from xqg_jax.stages.augment import augment
from xqg_jax.stages.index import build_index
from xqg_jax.stages.update_index import update_index
from xqg_jax.store.shards import ShardArrays
from xqg_jax.training.dual_encoder_model import DualEncoderModel

pytestmark = pytest.mark.usefixtures("quick_compiler")

NUM_PASSAGES = 12
LANGUAGES = ("fi", "te")
TINY = DualEncoderModel(
  config=BertConfig(
    vocab_size=64,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=8,
    max_position_embeddings=16,
  ),
  encoder=DualEncoderConfig(
    pooling="mean", normalize=True, query_length=8, passage_length=8
  ),
  num_negatives=1,
)
# The arguments of every verb, by what makes a path of a name. A verb reads
# what those before it write.
CALLS = {
  "demo": lambda at: {"output_dir": at("demo"), "num_passages": 200},
  "prepare": lambda at: {"output_dir": at("prepared"), "num_passages": 200},
  "plan": lambda at: {
    "output_dir": at("plan"),
    "model": TINY,
    "batch_size": 2,
    "find_largest_batch": False,
  },
  "train": lambda at: {"model_dir": at("trained")},
  "export": lambda at: {
    "checkpoint_path": at("encoder"),
    "output_dir": at("exported"),
  },
  "generate": lambda at: {
    "checkpoint_path": at("generator"),
    "passages": at("passages.jsonl"),
    "output_dir": at("generated"),
    **tiny_generator.OPTIONS,
  },
  "filter": lambda at: {
    "passages": at("passages.jsonl"),
    "generated_queries": at("queries.jsonl"),
    "output_dir": at("filtered"),
    "text_filters": ("duplicate",),
    "checkpoint_path": at("encoder"),
    "round_trip_k": 3,
    "sample_size": 4,
    "shard_size": 5,
  },
  "encode": lambda at: {
    "checkpoint_path": at("encoder"),
    "passages": at("passages.jsonl"),
    "generated_queries": at("queries.jsonl"),
    "output_dir": at("store"),
    "shard_size": 5,
  },
  "center": lambda at: {
    "encoder": at("encoder"),
    "queries": at("questions.jsonl"),
    "output_dir": at("means"),
  },
  "augment": lambda at: {
    "store": at("store"),
    "output_dir": at("view"),
    "alpha": 0.3,
    "materialize": True,
  },
  "store info": lambda at: {"store": at("store")},
  "store verify": lambda at: {"store": at("store")},
  "store center": lambda at: {
    "store": at("store"),
    "passages": at("passages.jsonl"),
    "output_dir": at("centred_store"),
  },
  "store export": lambda at: {
    "store": at("store"),
    "output_dir": at("vectors"),
  },
  "store import": lambda at: {
    "vectors": at("vectors/embeddings.npy"),
    "passage_ids": at("vectors/passage_ids.txt"),
    "output_dir": at("imported"),
  },
  "index": lambda at: {"embeddings": at("store"), "output_dir": at("index")},
  "update-index": lambda at: {
    "index": at("scann"),
    "embeddings": at("view"),
    "output_dir": at("updated"),
  },
  "search": lambda at: {
    "index": at("index"),
    "questions": at("questions.jsonl"),
    "checkpoint_path": at("encoder"),
    "output_dir": at("found"),
    "k": 10,
  },
  "tune-alpha": lambda at: {
    "search": at("found"),
    "questions": at("questions.jsonl"),
    "passages": at("passages.jsonl"),
    "output_dir": at("tuned"),
    "alphas": (0.0, 0.2),
    "num_folds": 2,
  },
  "mine-negatives": lambda at: {
    "index": at("index"),
    "checkpoint_path": at("encoder"),
    "passages": at("passages.jsonl"),
    "train_pairs": at("pairs.jsonl"),
    "output_dir": at("mined"),
    "k": 5,
  },
  "search --query": lambda at: {
    "query": "blue lake",
    "index": at("index"),
    "checkpoint_path": at("encoder"),
    "passages": at("passages.jsonl"),
    "k": 3,
  },
  "serve": lambda at: {
    "index": at("index"),
    "checkpoint_path": at("encoder"),
    "passages": at("passages.jsonl"),
    "generated_queries": at("queries.jsonl"),
    "port": 0,
  },
  "evaluate": lambda at: {
    "runs": {"plain": at("found")},
    "questions": at("questions.jsonl"),
    "passages": at("passages.jsonl"),
    "output_dir": at("evaluated"),
    "tokenizer": "no_sentences",
  },
  "pool": lambda at: {
    "evaluations": [at("evaluated")],
    "output_dir": at("pooled"),
  },
  "submit": lambda at: {
    "run": at("found"),
    "questions": at("questions.jsonl"),
    "passages": at("passages.jsonl"),
    "output_dir": at("submitted"),
  },
  "report": lambda at: {
    "evaluations": [at("evaluated")],
    "output_dir": at("reported"),
  },
}

# Tested apart: below, `train` with its checkpoints; the demo calls the others.
APART = ("demo", "plan", "train", "serve", "update-index")
ROAD = [verb for verb in CALLS if verb not in APART]
BUCKET = "memory://road"
_DIGEST = re.compile(rb"[0-9a-f]{64}")


def test_every_verb_is_called():
  assert CALLS.keys() == STAGES.keys()


def _write_input(folder):
  texts = make_texts(NUM_PASSAGES, longest=12)
  queries = make_texts(2 * NUM_PASSAGES, longest=5, seed=1)
  questions = make_texts(6, longest=4, seed=2)
  passages = [
    {
      "docid": f"p{i}",
      "text": text,
      "title": f"Town {i}",
      "lang": LANGUAGES[i % 2],
    }
    for i, text in enumerate(texts)
  ]
  files = {
    "passages.jsonl": passages,
    "queries.jsonl": [
      {
        "docid": f"p{i}",
        "generated_queries": {
          "fi": [queries[2 * i]],
          "te": [queries[2 * i + 1]],
        },
      }
      for i in range(NUM_PASSAGES)
    ],
    "questions.jsonl": [
      {
        "id": str(i),
        "question": question,
        "lang": LANGUAGES[i % 2],
        "answers": [texts[i].split()[0]],
      }
      for i, question in enumerate(questions)
    ],
    "pairs.jsonl": [
      {
        "query_id": str(i),
        "query": question,
        "language": "fi",
        "positive_passages": [passages[i]],
        "negative_passages": [],
      }
      for i, question in enumerate(questions)
    ],
  }
  for name, rows in files.items():
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / name).write_text("".join(lines))
  write_checkpoint(folder / "encoder")
  tiny_generator.write_checkpoint(folder / "generator")


@contextlib.contextmanager
def _in_an_empty_folder(folder):
  """No verb may leave anything in the working directory, such as `memory:`."""
  folder.mkdir()
  with contextlib.chdir(folder):
    yield
  assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def road(tmp_path_factory):
  """A folder and a bucket in which all verbs have done the same, in order."""
  root = tmp_path_factory.mktemp("road")
  local = root / "local"
  local.mkdir()
  _write_input(local)
  BucketPath(BUCKET).upload(local)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    with _in_an_empty_folder(root / "work"):
      for verb in ROAD:
        for make in (lambda name: f"{local}/{name}", f"{BUCKET}/{{}}".format):
          STAGES[verb].load()(**CALLS[verb](make))
  return local


def _read_all(root, folder, *, without_digests):
  """The bytes of all files of a folder, with the root's name taken out."""
  found = {}
  for path in (root / folder).rglob("*"):
    if path.is_file() and not path.name.startswith(".lock"):
      content = path.read_bytes().replace(str(root).encode(), b"ROOT")
      if without_digests:
        content = _DIGEST.sub(b"", content)
      found[str(path.relative_to(root))] = content
  return found


# Their files hold paths, or digests of files that do.
WITH_PATHS = ("evaluated", "pooled", "reported", "submitted")


@pytest.mark.parametrize(
  "folder",
  [
    call["output_dir"]
    for verb, make in CALLS.items()
    if verb in ROAD
    if "output_dir" in (call := make(str))
  ],
)
def test_a_bucket_holds_the_bytes_of_a_local_folder(road, folder):
  options = {"without_digests": folder in WITH_PATHS}
  expected = _read_all(road, folder, **options)
  assert len(expected) > 1
  assert _read_all(BucketPath(BUCKET), folder, **options) == expected


def test_a_plan_is_written_to_a_bucket(monkeypatch):
  measured = {"step": None, "largest_batch": None, "suggestion": None}
  monkeypatch.setattr(plan, "_measure", lambda *_: measured)
  monkeypatch.setattr(plan, "format_plan", str)
  plan.plan(**CALLS["plan"](f"{BUCKET}/{{}}".format))
  written = read_json(BucketPath(BUCKET) / "plan" / "plan.json")
  assert written.items() >= measured.items()


@pytest.mark.usefixtures("road")
def test_a_page_is_served_from_a_bucket(monkeypatch):
  served = []

  class Server:
    async def serve(self, sockets):
      served.extend(sockets)

  app = serve._import_app()
  monkeypatch.setattr(app, "make_server", lambda app: Server())
  serve.serve(**CALLS["serve"](f"{BUCKET}/{{}}".format))
  assert len(served) == 1


def test_a_scann_index_in_a_bucket_is_updated(tmp_path, monkeypatch):
  """ScaNN's files are copied to the cache before they are loaded."""
  pytest.importorskip("scann")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  bucket = BucketPath("memory://scann")
  vectors = np.random.default_rng(0).standard_normal((300, 16), np.float32)
  ids = [f"p{i}" for i in range(300)]
  for name, kept in (("store", slice(None)), ("view", slice(20, None))):
    arrays = ShardArrays(ids[kept], vectors[kept], None, None)
    tiny_store.write_store(bucket / name, arrays)
  build_index(
    embeddings=bucket / "store",
    output_dir=bucket / "scann",
    kind="scann",
    k=5,
    num_leaves=4,
    num_leaves_to_search=4,
    num_reordered=300,
  )
  with update_index(**CALLS["update-index"](f"{bucket}/{{}}".format)) as index:
    _, rows = index.search(vectors[20:25], 1)
  assert rows[:, 0].tolist() == [0, 1, 2, 3, 4]
  assert any(tmp_path.rglob("scann_config.pb"))


def test_a_view_in_a_bucket_is_read_and_searched(road):
  """Its vectors are added up from the store's as they are read."""
  found = []
  for root in (road, BucketPath(BUCKET)):
    augment(store=root / "store", output_dir=root / "light", alpha=0.3)
    with build_index(
      embeddings=root / "light", output_dir=root / "light_index", kind="exact"
    ) as index:
      found.append(index.search(np.eye(16, dtype=np.float32), 3))
  for one, other in zip(*found, strict=True):
    assert one.tobytes() == other.tobytes()
  options = {"without_digests": False}
  written = _read_all(BucketPath(BUCKET), "light", **options)
  assert written == _read_all(road, "light", **options)
  assert "light/view.json" in written
