"""A training step of the dual encoder beside a torch loop of Tevatron's recipe.

  python benchmarks/train_step.py

draws a model of multilingual-e5-small's shape and batches of 16 questions with
4 passages each (32 and 128 tokens at most), trains on them by torch in float32,
by torch in bfloat16 autocast, and by ours in both, and prints JSON: examples a
second, ratios, peak memory. Each variant runs in processes of its own, in turn.
Before that, each takes a step without dropout from the same weights, and they
have to agree. XQG_BENCH_INPUTS may name a folder with a model `bert`, its
tokenizer `tok`, `queries.jsonl` and `passages.tsv` to use instead. Linux only:
memory is read from /proc.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

VARIANTS = ("torch_float32", "torch_bfloat16", "ours_float32", "ours_bfloat16")
SIZES = (
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
)
SHAPES = {
  "e5_small": (250_037, 384, 12, 12, 1536),
  "tiny": (1000, 64, 2, 2, 256),
}
LENGTHS = {"query": 32, "passage": 128}
ROW_LENGTHS = {"query": 128, "passage": 128}
LEARNING_RATE, GRADIENT_CLIP, DROPOUT = 1e-5, 1.0, 0.1
NOTE = (
  "torch's float32 products use no AVX512 on AMD: where XLA's are faster, the "
  "advantage over torch_float32 is in part one of the BLAS"
)


# --------------------------------------------------------------------- inputs


def write_inputs(folder: pathlib.Path, arguments: argparse.Namespace) -> None:
  """Writes the model and the batches that every variant reads."""
  (folder / "model").mkdir()
  if given := os.environ.get("XQG_BENCH_INPUTS"):
    draw = link_inputs(folder / "model", pathlib.Path(given).absolute())
  else:
    shape = dict(zip(SIZES, SHAPES[arguments.shape], strict=True))
    write_random_model(folder / "model", shape)
    draw = make_drawer(shape["vocab_size"])
  counts = {"query": arguments.questions}
  counts["passage"] = arguments.questions * arguments.passages
  numbers = range(arguments.steps + 1)
  batches = {s: [draw(s, n) for _ in numbers] for s, n in counts.items()}
  np.savez(folder / "batches.npz", **batches)


def write_random_model(folder: pathlib.Path, shape: Mapping[str, int]) -> None:
  """Writes a BERT with random weights and some tokenizer."""
  import jax

  from xqg_jax.checkpoints import save_model_files, write_safetensors
  from xqg_jax.models.bert import encoder
  from xqg_jax.models.parameters import init_params
  from xqg_jax.text.tokenizer_training import train_tokenizer

  config = encoder.BertConfig(**shape)
  params = init_params(encoder.BertEncoder(config), jax.random.key(0))
  tensors = encoder.params_to_hf(params, config)
  write_safetensors(folder / "model.safetensors", tensors)
  words = train_tokenizer(["the old mill"], vocab_size=40, style="bert")
  save_model_files(folder, model_config_hf=config.to_hf(), tokenizer=words)


def make_drawer(vocab_size: int) -> Callable[[str, int], np.ndarray]:
  """Draws questions of 8 to 24 token ids and passages of 80 to 170, cut."""
  rng = np.random.default_rng(0)

  def draw(side: str, count: int) -> np.ndarray:
    low, high = {"query": (8, 24), "passage": (80, 170)}[side]
    tokens = rng.integers(10, vocab_size, (count, LENGTHS[side]))
    lengths = rng.integers(low, high + 1, (count, 1))
    return np.where(np.arange(LENGTHS[side]) < lengths, tokens, 0)

  return draw


def link_inputs(
  folder: pathlib.Path, given: pathlib.Path
) -> Callable[[str, int], np.ndarray]:
  """Links a given model and draws texts from given files."""
  from xqg_jax.text.tokenizer import load_tokenizer

  # The model's folder may hold a tokenizer, too: that of `tok` is taken.
  files = {
    f.name: f for part in ("bert", "tok") for f in (given / part).iterdir()
  }
  for name, file in files.items():
    (folder / name).symlink_to(file)
  tokenizer = load_tokenizer(folder)
  with (given / "queries.jsonl").open() as file:
    texts = {"query": [json.loads(line)["question"] for line in file]}
  with (given / "passages.tsv").open() as file:
    texts["passage"] = [line.rstrip("\n").split("\t", 1)[1] for line in file]
  rng = np.random.default_rng(0)

  def draw(side: str, count: int) -> np.ndarray:
    chosen = [texts[side][i] for i in rng.integers(0, len(texts[side]), count)]
    found = tokenizer.encode_batch(chosen, max_length=LENGTHS[side])
    rows = np.full((count, LENGTHS[side]), tokenizer.pad_id)
    for row, tokens in zip(rows, found, strict=True):
      row[: len(tokens)] = tokens
    return rows

  return draw


def read_batches(folder: pathlib.Path) -> list[dict[str, np.ndarray]]:
  """The batches as they were written: one matrix of tokens a side."""
  with np.load(folder / "batches.npz") as file:
    arrays = dict(file)
  pairs = zip(*arrays.values(), strict=True)
  return [dict(zip(arrays, pair, strict=True)) for pair in pairs]


# ---------------------------------------------------------------------- torch


class TorchSteps:
  """Tevatron's recipe: shared encoder, CLS, in-batch softmax, AdamW, clip."""

  def __init__(self, folder: pathlib.Path, dtype: str, dropout: float):
    """Loads the model."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    self._torch, self._is_bfloat16 = torch, dtype == "bfloat16"
    self._model = transformers.BertModel.from_pretrained(
      folder / "model",
      add_pooling_layer=False,
      hidden_dropout_prob=dropout,
      attention_probs_dropout_prob=dropout,
    ).train()
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(), lr=LEARNING_RATE, weight_decay=0.0
    )

  def get_shape(self, batch: Mapping[str, np.ndarray]) -> int:
    """What a step has to be warmed up for: nothing but the first."""
    return 0

  def take(self, batch: Mapping[str, np.ndarray]) -> float:
    """Takes a step and returns its loss."""
    torch = self._torch
    with torch.autocast("cpu", torch.bfloat16, enabled=self._is_bfloat16):
      queries, passages = (self._embed(batch[side]) for side in LENGTHS)
      scores = (queries @ passages.T).float()
      group = len(passages) // len(queries)
      targets = torch.arange(0, len(passages), group)
      loss = torch.nn.functional.cross_entropy(scores, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._model.parameters(), GRADIENT_CLIP)
    self._optimizer.step()
    self._optimizer.zero_grad()
    return loss.item()

  def _embed(self, tokens: np.ndarray) -> Any:
    tokens = self._torch.from_numpy(tokens)
    mask = (tokens != self._model.config.pad_token_id).long()
    return self._model(tokens, attention_mask=mask).last_hidden_state[:, 0]

  def read_params(self) -> dict[str, np.ndarray]:
    """The parameters under Hugging Face's names."""
    named = self._model.named_parameters()
    return {name: x.detach().numpy() for name, x in named}


# ----------------------------------------------------------------------- ours


class OurSteps:
  """The same as `xqg train` does it."""

  def __init__(self, folder: pathlib.Path, dtype: str, dropout: float):
    """Loads the model."""
    from xqg_jax.models.dual_encoder.config import DualEncoderConfig
    from xqg_jax.runtime.sharding import make_mesh
    from xqg_jax.training.dual_encoder_model import DualEncoderModel
    from xqg_jax.training.optimizers import make_optimizer
    from xqg_jax.training.state import Trainer

    lengths = {f"{side}_length": length for side, length in LENGTHS.items()}
    self._model, params = DualEncoderModel(
      encoder=DualEncoderConfig(pooling="cls", normalize=False, **lengths),
      row_lengths=ROW_LENGTHS,
      dropout_rate=dropout,
      dtype=dtype,
    ).complete(folder / "model")
    optimizer = make_optimizer(
      optimizer="adamw",
      learning_rate=LEARNING_RATE,
      gradient_clip=GRADIENT_CLIP,
    )
    self._trainer = Trainer(self._model, optimizer, make_mesh(), seed=0)
    self._state = self._trainer.init_state(params)

  def get_shape(self, batch: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """What a step is compiled for."""
    return tuple(len(x) for x in self._prepare(batch).values())

  def take(self, batch: Mapping[str, np.ndarray]) -> float:
    """Takes a step and returns its loss."""
    from xqg_jax.runtime.sharding import shard_batch

    rows = shard_batch(self._trainer.mesh, self._prepare(batch))
    self._state, metrics = self._trainer.step(self._state, rows)
    return float(metrics["loss"])

  def _prepare(self, batch: Mapping[str, np.ndarray]) -> Any:
    """Packs the texts into rows, as the training loop has it done."""
    batch = {side: x.astype(np.int32) for side, x in batch.items()}
    passages = batch["passage"].reshape(
      len(batch["query"]), -1, LENGTHS["passage"]
    )
    padded = {
      "query_tokens": batch["query"],
      "passage_tokens": passages[:, 0],
      "negative_passage_tokens": passages[:, 1:],
    }
    return self._model.prepare_batch(padded, num_groups=1)

  def read_params(self) -> dict[str, np.ndarray]:
    """The parameters under Hugging Face's names."""
    from xqg_jax.models.bert import encoder

    params = self._state.params["encoder"]
    return encoder.params_to_hf(params, self._model.config)


# ------------------------------------------------------------------ processes


def make_steps(folder: pathlib.Path, variant: str, dropout: float) -> Any:
  """Loads the model of a variant."""
  maker, dtype = variant.split("_")
  return (OurSteps if maker == "ours" else TorchSteps)(folder, dtype, dropout)


def check(folder: pathlib.Path, variant: str) -> dict[str, float]:
  """Takes one step without dropout and keeps its parameters."""
  steps = make_steps(folder, variant, dropout=0.0)
  loss = steps.take(read_batches(folder)[0])
  np.savez(folder / f"{variant}.npz", **steps.read_params())
  return {"loss": loss}


def measure(folder: pathlib.Path, variant: str) -> dict[str, Any]:
  """Warms up by a step of each shape, then times all but the first batch."""
  steps = make_steps(folder, variant, dropout=DROPOUT)
  batches = read_batches(folder)
  for batch in {steps.get_shape(b): b for b in batches}.values():
    steps.take(batch)
  seconds, cpu_seconds = [], []
  for batch in batches[1:]:
    start, cpu_start = time.perf_counter(), time.process_time()
    steps.take(batch)
    seconds.append(time.perf_counter() - start)
    cpu_seconds.append(time.process_time() - cpu_start)
  status = pathlib.Path("/proc/self/status").read_text()
  peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
  return {"seconds": seconds, "cpu": min(cpu_seconds), "peak_mb": peak}


def run_process(folder: pathlib.Path, task: str, variant: str) -> Any:
  """Runs `check` or `measure` of a variant in a process of its own."""
  command = [sys.executable, __file__, "--task", task, variant, str(folder)]
  done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
  return json.loads(done.stdout.splitlines()[-1])


# -------------------------------------------------------------------- results


def compare(folder: pathlib.Path, variants: Sequence[str]) -> dict[str, Any]:
  """One step of each variant beside the first's.

  Returns:
    The losses, and by variant the largest difference of a parameter and the
    length of the difference of all updates, divided by that of the update.
  """
  losses = {v: run_process(folder, "check", v)["loss"] for v in variants}
  from xqg_jax.checkpoints import read_hf_tensors

  start = dict(read_hf_tensors(folder / "model"))
  reference, found = variants[0], {"losses": losses}
  for variant in variants[1:]:
    largest = squares = norm = 0.0
    with (
      np.load(folder / f"{reference}.npz") as expected,
      np.load(folder / f"{variant}.npz") as values,
    ):
      for name in expected.files:
        difference = values[name] - expected[name]
        update = expected[name] - start[name]
        largest = max(largest, float(np.abs(difference).max()))
        squares += float(np.square(difference).sum(dtype=np.float64))
        norm += float(np.square(update).sum(dtype=np.float64))
    found[variant] = {
      "largest_parameter_difference": largest,
      "relative_update_difference": (squares / norm) ** 0.5,
    }
  return found


def summarize(runs: Sequence[Any], questions: int) -> dict[str, Any]:
  """Medians over all steps of all rounds of a variant."""
  seconds = [second for run in runs for second in run["seconds"]]
  median = statistics.median(seconds)
  return {
    "examples_per_s": questions / median,
    "step_s": {"median": median, "min": min(seconds), "max": max(seconds)},
    "least_cpu_s": min(run["cpu"] for run in runs),
    "peak_mb": max(run["peak_mb"] for run in runs),
  }


def run_all(
  folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Checks and measures all variants, in turn."""
  write_inputs(folder, arguments)
  variants = arguments.variants
  compared = compare(folder, variants)
  runs: dict[str, list[Any]] = {variant: [] for variant in variants}
  loads = []
  for _ in range(arguments.rounds):
    for variant in variants:
      loads.append(os.getloadavg()[0])
      runs[variant].append(run_process(folder, "measure", variant))
  results = {v: summarize(runs[v], arguments.questions) for v in variants}
  return {
    "batch": f"{arguments.questions} x {arguments.passages}",
    "cores": os.cpu_count(),
    "load_before_each": loads,
    "one_step_without_dropout": compared,
    "variants": results,
    "ratios": divide(results),
    "note": NOTE,
  }


def divide(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  """Ours divided by each peer's; by CPU seconds where others compute, too."""
  return {
    f"{ours}/{peer}": {
      name: results[above][key] / results[below][key]
      for name, key, above, below in (
        ("speed", "examples_per_s", ours, peer),
        ("speed_by_cpu_s", "least_cpu_s", peer, ours),
        ("peak_memory", "peak_mb", ours, peer),
      )
    }
    for ours in results
    for peer in results
    if ours.startswith("ours") and peer.startswith("torch")
  }


def main() -> None:
  """Runs the benchmark and prints it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--shape", choices=list(SHAPES), default="e5_small")
  numbers = {"questions": 16, "passages": 4, "steps": 4, "rounds": 3}
  for name, default in numbers.items():
    parser.add_argument(f"--{name}", type=int, default=default)
  parser.add_argument(
    "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)
  )
  parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.task:
    task, variant, folder = arguments.task
    run = {"check": check, "measure": measure}[task]
    print(json.dumps(run(pathlib.Path(folder), variant)))
    return
  with tempfile.TemporaryDirectory() as folder:
    print(json.dumps(run_all(pathlib.Path(folder), arguments), indent=2))


if __name__ == "__main__":
  main()
