"""Latency of the search page's API under a steady load, as JSON.

  python benchmarks/serve.py --encoder e5-small

Builds a ScaNN index of 100,000 random clustered vectors, starts `xqg serve` in
a process of its own and sends it 10 new questions a second for a minute, each
at its time whether or not the one before has been answered. Latency counts
from that time to the last byte of the answer.

The encoder is a folder of e5-small; without one, random parameters of its
shape, which take as long.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from xqg_jax.checkpoints import load_dual_encoder, save_model_files, save_params
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.stages.augment import augment
from xqg_jax.stages.index import build_index
from xqg_jax.store.shards import ShardArrays, write_shards
from xqg_jax.store.store import write_manifest

NUM_QUERIES = 35
CONFIG = DualEncoderConfig(
  pooling="mean",
  normalize=True,
  query_prefix="query: ",
  passage_prefix="passage: ",
  query_length=64,
  passage_length=512,
)
SYLLABLES = "ka to ri mo na shi lu ve ta no pe sa rin dor mal".split()


# ---------------------------------------------------------------------- inputs


def make_words(rng: random.Random, count: int) -> str:
  """Invented words; about two tokens each."""
  words = ("".join(rng.choices(SYLLABLES, k=3)) for _ in range(count))
  return " ".join(words)


def make_random_encoder(folder: pathlib.Path) -> pathlib.Path:
  """Writes random parameters of e5-small's shape."""
  import jax

  from xqg_jax.models.bert.config import BertConfig
  from xqg_jax.models.bert.encoder import BertEncoder
  from xqg_jax.models.parameters import init_params
  from xqg_jax.text.tokenizer_training import train_tokenizer

  rng = random.Random(1)
  tokenizer = train_tokenizer(
    (make_words(rng, 20) for _ in range(500)), vocab_size=300, style="bert"
  )
  model = BertConfig(
    vocab_size=250_037,
    hidden_size=384,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=1536,
    max_position_embeddings=512,
  )
  save_model_files(
    folder,
    model_config_hf=model.to_hf(),
    tokenizer=tokenizer,
    dual_encoder_config=CONFIG,
  )
  params = init_params(BertEncoder(model), jax.random.key(0))
  save_params(folder, 1, {"encoder": params})
  return folder


def write_store(
  folder: pathlib.Path, num_passages: int, encoder: pathlib.Path
) -> None:
  """Unit vectors around 1,000 centres, and sums of queries near them."""
  model = load_dual_encoder(encoder, config=CONFIG)
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((1000, model.dim), np.float32)

  def make_parts() -> Iterator[ShardArrays]:
    for start in range(0, num_passages, 10_000):
      rows = min(10_000, num_passages - start)
      near = centres[rng.integers(0, len(centres), rows)]
      noise = rng.standard_normal((2, rows, model.dim), np.float32)
      passages, queries = near + noise[0], near + noise[1]
      for vectors in (passages, queries):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
      yield ShardArrays(
        [f"p{start + row}" for row in range(rows)],
        passages,
        NUM_QUERIES * queries[:, None],
        np.full((rows, 1), NUM_QUERIES, np.int32),
      )

  folder.mkdir()
  write_manifest(
    folder,
    shards=write_shards(folder, make_parts, dtype="float32", task="write"),
    dim=model.dim,
    dtype="float32",
    encoder={"fingerprint": model.fingerprint, "config": None},
    groups=[{"language": None, "rank": None}],
    inputs={},
  )


def write_texts(folder: pathlib.Path, num_passages: int) -> None:
  """Passages of 100 words, with queries in seven languages."""
  rng = random.Random(2)
  pool = [make_words(rng, 100) for _ in range(500)]
  short = [make_words(rng, 6) for _ in range(500)]
  languages = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
  with (
    open(folder / "passages.jsonl", "w") as passages,
    open(folder / "queries.jsonl", "w") as queries,
  ):
    for row in range(num_passages):
      identity = {"docid": f"p{row}"}
      text = {"title": rng.choice(short), "text": rng.choice(pool)}
      made = {code: rng.sample(short, 5) for code in languages}
      passages.write(json.dumps(identity | text) + "\n")
      queries.write(json.dumps(identity | {"generated_queries": made}) + "\n")


# ------------------------------------------------------------------ the server


@contextlib.contextmanager
def run_server(
  folder: pathlib.Path, encoder: pathlib.Path, kind: str
) -> Iterator[int]:
  """Starts `xqg serve`; yields the port when it is ready."""
  settings = {
    "INDEX": folder / f"{kind}_view",
    "CHECKPOINT_PATH": encoder,
    "PASSAGES": folder / "passages.jsonl",
    "GENERATED_QUERIES": folder / "queries.jsonl",
    "PORT": 0,
  }
  if kind == "scann":
    settings["BASELINE_INDEX"] = folder / "scann_store"
  command = [sys.executable, "-m", "xqg_jax.cli.main", "serve"]
  command += ["--gin_file=encoders/e5.gin"]
  command += [f"--gin.{name}={value}" for name, value in settings.items()]
  process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
  try:
    for line in process.stderr:
      if line.startswith("xqg serve: http://"):
        break
    else:
      raise SystemExit(f"the server ended with {process.wait()}")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield int(line.rstrip("/\n").rpartition(":")[2])
  finally:
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=30)
    if code:
      raise SystemExit(f"the server ended with {code}")


def ask(port: int, question: str, alpha: float) -> None:
  """Sends one question; raises if the answer is not a whole one."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
  with contextlib.closing(connection):
    body = json.dumps({"question": question, "alpha": alpha})
    headers = {"content-type": "application/json"}
    connection.request("POST", "/api/search", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200 or len(answer["augmented"]) != 10:
      raise OSError(f"status {response.status}")


def send_questions(
  port: int, *, rate: float, seconds: float
) -> tuple[list[float], list[str]]:
  """Sends at fixed times; returns milliseconds, and what went wrong."""
  rng = random.Random(3)
  milliseconds: list[float] = []
  errors: list[str] = []
  started = time.perf_counter() + 0.1

  def send(due: float, question: str) -> None:
    try:
      ask(port, question, alpha=0.01)
      milliseconds.append(1000 * (time.perf_counter() - due))
    except (OSError, KeyError, ValueError, http.client.HTTPException) as error:
      errors.append(str(error))

  threads = []
  for number in range(round(rate * seconds)):
    due = started + number / rate
    question = make_words(rng, rng.randint(3, 9))
    time.sleep(max(0.0, due - time.perf_counter()))
    thread = threading.Thread(target=send, args=(due, question))
    thread.start()
    threads.append(thread)
  for thread in threads:
    thread.join()
  return milliseconds, errors


# ---------------------------------------------------------------------- report


def measure(port: int, *, rate: float, seconds: float) -> dict[str, float]:
  """Latencies in milliseconds, and the number of errors."""
  milliseconds, errors = send_questions(port, rate=rate, seconds=seconds)
  p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
  return {
    "requests": len(milliseconds) + len(errors),
    "errors": len(errors),
    "p50_ms": round(float(p50), 2),
    "p95_ms": round(float(p95), 2),
    "p99_ms": round(float(p99), 2),
    "max_ms": round(max(milliseconds), 2),
  }


def main(arguments: Sequence[str] | None = None) -> None:
  """Builds, serves, measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--encoder", type=pathlib.Path, help="e5-small's folder")
  parser.add_argument("--passages", type=int, default=100_000)
  parser.add_argument("--rate", type=float, default=10.0, help="a second")
  parser.add_argument("--seconds", type=float, default=60.0)
  parser.add_argument("--kinds", nargs="+", default=["scann", "exact"])
  parser.add_argument("--folder", type=pathlib.Path, help="keeps the inputs")
  args = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as scratch:
    folder = args.folder or pathlib.Path(scratch)
    folder.mkdir(exist_ok=True)
    encoder = args.encoder or make_random_encoder(folder / "encoder")
    if not (folder / "store").exists():
      write_store(folder / "store", args.passages, encoder)
      write_texts(folder, args.passages)
    augment(store=folder / "store", output_dir=folder / "view", alpha=0.01)
    report = {"passages": args.passages, "cores": os.cpu_count()}
    for kind in args.kinds:
      for name in ("view", "store") if kind == "scann" else ("view",):
        build_index(
          embeddings=folder / name,
          output_dir=folder / f"{kind}_{name}",
          kind=kind,
        )
      with run_server(folder, encoder, kind) as port:
        report[kind] = measure(port, rate=args.rate, seconds=args.seconds)
  print(json.dumps(report, indent=2))


if __name__ == "__main__":
  main()
