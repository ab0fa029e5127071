"""The road from passages to found passages at a large number of passages.

  python benchmarks/encoding_scale.py --passages 1000000 --output scale

makes a `xor_mini` collection of that size with generated queries cut from the
passages, draws a one-layer encoder, and runs `xqg encode`, `augment`, `index`
(exact) and `search` on it. While they run, the memory of each is read from
/proc twice a second. It writes scale.json and scale.svg: memory and passages
encoded over time, the rates of about ten equal pieces, and bytes on disk. The
checks are that neither memory nor rate depends on how much is done.

`--folder` keeps what was made and goes on from it; `--kill_after` then kills
`xqg encode` after so many seconds (SIGKILL). The next call resumes it, and
the curve shows both parts. Linux only.
"""

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
QUERY_WORDS, DIM = 6, 64
SHARD_SIZE = 8192


def write_inputs(folder: pathlib.Path, count: int) -> None:
  """Writes the collection and the encoder, unless they are there."""
  made = folder / "inputs.json"
  if made.exists():
    if json.loads(made.read_text())["passages"] != count:
      raise SystemExit(f"{folder} holds another number of passages")
    return
  begun = time.perf_counter()
  write_collection(folder, count)
  write_encoder(folder)
  told = {"passages": count, "seconds": time.perf_counter() - begun}
  made.write_text(json.dumps(told))


def write_collection(folder: pathlib.Path, count: int) -> None:
  """Writes passages, dev questions and one query a language and passage."""
  from xqg_jax import make_xor_mini, read_passages

  make_xor_mini(
    output_dir=folder / "collection",
    num_passages=count,
    num_dev_questions_per_language=50,
    num_train_questions=100,
  )
  passages = folder / "collection" / "passages.tsv"
  with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
    for passage in read_passages(passages):
      words = passage.text.split()
      queries = {
        code: [" ".join(words[place : place + QUERY_WORDS])]
        for place, code in enumerate(LANGUAGES)
      }
      item = {"docid": passage.passage_id, "generated_queries": queries}
      file.write(json.dumps(item, ensure_ascii=False) + "\n")


def write_encoder(folder: pathlib.Path) -> None:
  """Writes an encoder of one layer with random weights."""
  import itertools

  import jax

  from xqg_jax import read_passages, read_questions
  from xqg_jax.checkpoints import save_model_files, save_params
  from xqg_jax.models.bert.encoder import BertConfig, BertEncoder
  from xqg_jax.models.dual_encoder.config import DualEncoderConfig
  from xqg_jax.models.dual_encoder.network import make_network
  from xqg_jax.models.parameters import init_params
  from xqg_jax.text.tokenizer_training import train_tokenizer

  collection = folder / "collection"
  some = itertools.islice(read_passages(collection / "passages.tsv"), 2000)
  texts = [passage.text for passage in some]
  asked = read_questions(collection / "questions_dev.jsonl")
  texts += [question.question for question in asked]
  config = BertConfig(
    vocab_size=4096,
    hidden_size=DIM,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=2 * DIM,
    max_position_embeddings=128,
  )
  dual = DualEncoderConfig(pooling="mean", normalize=True)
  network = make_network(BertEncoder(config), dual)
  save_model_files(
    folder / "model",
    model_config_hf=config.to_hf(),
    tokenizer=train_tokenizer(texts, vocab_size=4096, style="bert"),
    dual_encoder_config=dual,
  )
  save_params(folder / "model", 1, init_params(network, jax.random.key(0)))


def run_watched(
  arguments: list[str],
  store: pathlib.Path | None = None,
  kill_after: float | None = None,
) -> dict[str, Any]:
  """Runs `xqg` and samples its memory, and the shards there are in a store."""
  command = [sys.executable, "-m", "xqg_jax.cli.main", *arguments]
  begun, samples = time.perf_counter(), []
  with tempfile.TemporaryFile("w+") as log:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    while process.poll() is None:
      shards = len(list(store.glob("shard-*"))) if store else 0
      now = time.perf_counter() - begun
      samples.append((now, _read_mb(process.pid), shards))
      if kill_after is not None and now > kill_after:
        process.kill()
      time.sleep(0.5)
    log.seek(0)
    told = log.read()
  is_killed = process.returncode == -signal.SIGKILL and kill_after is not None
  if process.returncode and not is_killed:
    raise RuntimeError(f"{arguments[0]} failed: {told[-2000:]}")
  return {
    "seconds": time.perf_counter() - begun,
    "peak_mb": max(mb for _, mb, _ in samples),
    "samples": samples,
    "is_killed": is_killed,
    "said": [line for line in told.splitlines() if "idle" in line][-1:],
  }


def _read_mb(pid: int) -> float:
  try:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
  except (FileNotFoundError, ProcessLookupError):
    return 0.0
  found = re.search(r"VmRSS:\s+(\d+) kB", status)
  return int(found[1]) / 1024 if found else 0.0


def list_stages(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """The settings of all stages, in order."""
  collection = folder / "collection"
  return {
    "encode": {
      "CHECKPOINT_PATH": folder / "model",
      "PASSAGES": collection / "passages.tsv",
      "GENERATED_QUERIES": folder / "queries.jsonl",
      "DTYPE": "bfloat16",
      "SHARD_SIZE": SHARD_SIZE,
      "OUTPUT_DIR": folder / "store",
    },
    "augment": {
      "STORE": folder / "store",
      "ALPHA": 0.1,
      "OUTPUT_DIR": folder / "view",
    },
    "index": {
      "EMBEDDINGS": folder / "view",
      "INDEX_KIND": "exact",
      "OUTPUT_DIR": folder / "index",
    },
    "search": {
      "INDEX": folder / "index",
      "QUESTIONS": collection / "questions_dev.jsonl",
      "CHECKPOINT_PATH": folder / "model",
      "OUTPUT_DIR": folder / "found",
    },
  }


def run_encode(
  folder: pathlib.Path, kill_after: float | None
) -> list[dict[str, Any]]:
  """Encodes, or goes on; returns what was seen of each part up to now."""
  seen = folder / "encode_parts.json"
  parts = json.loads(seen.read_text()) if seen.exists() else []
  if not parts or parts[-1]["is_killed"]:
    flags = to_flags(list_stages(folder)["encode"])
    parts.append(run_watched(["encode", *flags], folder / "store", kill_after))
    seen.write_text(json.dumps(parts))
  return parts


def to_flags(settings: dict[str, Any]) -> list[str]:
  """Settings as flags of `xqg`."""
  return [f"--gin.{name}={value}" for name, value in settings.items()]


def describe(
  folder: pathlib.Path, count: int, parts: list[dict[str, Any]]
) -> dict[str, Any]:
  """What encoding shows: rates by piece, memory by half, bytes."""
  curves = [np.array(part.pop("samples")) for part in parts]
  rates = [
    rate for curve in curves for rate in find_rates(curve, count, len(curves))
  ]
  memory = np.concatenate([curve[:, 1] for curve in curves])
  size = sum(
    f.stat().st_size for f in (folder / "store").rglob("*") if f.is_file()
  )
  half = len(memory) // 2
  return {
    "passages": count,
    "queries": count * len(LANGUAGES),
    "encode": parts,
    "store_bytes_per_passage": size / count,
    "rates": rates,
    "memory_mb": {
      "first_half": float(memory[:half].max()),
      "second_half": float(memory[half:].max()),
    },
    "curves": [curve.round(1).tolist() for curve in curves],
  }


def find_rates(curve: np.ndarray, count: int, num_parts: int) -> list[int]:
  """Passages a second in equal pieces of a part, about ten in all parts.

  They are counted from the first shard of the part to its last.
  """
  at, _, shards = curve.T
  begun = int(np.argmax(shards > shards[0]))
  ended = int(np.argmax(shards == shards[-1]))
  if ended <= begun:  # too short to tell
    return []
  done = np.minimum(shards * SHARD_SIZE, count)[begun : ended + 1]
  marks = np.linspace(done[0], done[-1], 10 // num_parts + 1)
  # The moment at which each number of passages was reached first.
  reached, first = np.unique(done, return_index=True)
  times = np.interp(marks, reached, at[begun : ended + 1][first])
  return (np.diff(marks) / np.diff(times)).round().astype(int).tolist()


def plot(result: dict[str, Any], path: pathlib.Path) -> None:
  """Memory and passages over time; a line where a killed run went on."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, left = plt.subplots(figsize=(7, 3.5), layout="constrained")
  right, begun = left.twinx(), 0.0
  for curve in map(np.array, result["curves"]):
    at, memory, shards = curve[::4].T  # one sample in two seconds
    if begun:
      left.axvline(begun, color="grey", linestyle="--")
    left.plot(begun + at, memory, color="tab:red")
    done = np.minimum(shards * SHARD_SIZE, result["passages"])
    right.plot(begun + at, done / 1000, color="tab:blue")
    begun += at[-1]
  left.set(xlabel="seconds", ylabel="resident memory, MB", ylim=(0, None))
  right.set(ylabel="thousand passages encoded", ylim=(0, None))
  left.set_title(f"xqg encode, {result['passages']:,} passages (memory: red)")
  # No date and no random names: the same run gives the same file.
  with matplotlib.rc_context({"svg.hashsalt": "scale"}):
    figure.savefig(path, metadata={"Date": None})


def run_road(folder: pathlib.Path, arguments: argparse.Namespace) -> None:
  """All stages, one after the other, and what was seen."""
  write_inputs(folder, arguments.passages)
  parts = run_encode(folder, arguments.kill_after)
  if parts[-1]["is_killed"]:
    print(f"killed; the same command without --kill_after goes on in {folder}")
    return
  result = describe(folder, arguments.passages, parts)
  for stage, settings in list(list_stages(folder).items())[1:]:
    result[stage] = run_watched([stage, *to_flags(settings)])
    del result[stage]["samples"]
  plot(result, arguments.output.with_suffix(".svg"))
  text = json.dumps(result, indent=2)
  arguments.output.with_suffix(".json").write_text(text)
  del result["curves"]
  print(json.dumps(result, indent=2))


def main() -> None:
  """Runs the road and writes what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--passages", type=int, default=1_000_000)
  parser.add_argument(
    "--output", type=pathlib.Path, default=pathlib.Path("scale")
  )
  parser.add_argument("--folder", type=pathlib.Path)
  parser.add_argument("--kill_after", type=float)
  arguments = parser.parse_args()
  if arguments.folder is not None:
    arguments.folder.mkdir(parents=True, exist_ok=True)
    run_road(arguments.folder, arguments)
    return
  if arguments.kill_after is not None:
    parser.error("--kill_after needs --folder, to go on from")
  with tempfile.TemporaryDirectory() as folder:
    run_road(pathlib.Path(folder), arguments)


if __name__ == "__main__":
  main()
