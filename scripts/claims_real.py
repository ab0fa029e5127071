"""Tests claims with a real encoder on a real collection.

  scripts/real_run.sh e5-small xquad_xor real_run
  python scripts/claims_real.py --real_run=real_run --collection=xquad_xor \
    --output_dir=claims_real

takes embeddings and searches of that run. The encoder is as it is: no training,
so no seeds. Writes `claims_real.json`, from which
`scripts/write_reproduction.py` makes tables.
"""

import argparse
import pathlib

import numpy as np

from xqg_jax.augmentation.fusion import augment_embeddings
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.augmentation.views import open_view
from xqg_jax.data.runs import make_run, write_run
from xqg_jax.indexes.exact.search import search_exact
from xqg_jax.io.files import read_json, write_json
from xqg_jax.stages.evaluate import evaluate
from xqg_jax.store.store import EmbeddingStore

# As in gin_configs/recipes/xquad_e5.gin.
MEAN_ALPHA, SUM_ALPHA = 0.2, 0.01
NUM_QUERIES = (1, 2, 4)
K = 100


def search_control(
  store: EmbeddingStore, baseline: pathlib.Path, run: pathlib.Path
) -> None:
  """Searches with the queries of the next passage in the place of its own."""
  block = next(iter(store.blocks(store.num_passages)))
  vectors = augment_embeddings(
    block.passages,
    np.roll(block.query_sums.sum(axis=1), -1, axis=0),
    np.roll(block.query_counts.sum(axis=1), -1, axis=0),
    reduction="mean",
    alpha=MEAN_ALPHA,
  )
  questions = read_json(baseline / "manifest.json")["question_ids"]
  embeddings = np.load(baseline / "question_embeddings.npy")
  found = search_exact(embeddings, [(0, vectors.astype(np.float32))], K)
  write_run(run, make_run(questions, store.passage_ids, *found))


def compare(
  baseline: pathlib.Path,
  control: pathlib.Path,
  collection: pathlib.Path,
  output_dir: pathlib.Path,
) -> dict[str, object]:
  """Evaluates everything beside the baseline."""
  mean = f"mean {MEAN_ALPHA}"
  augmentations = {
    mean: Augmentation(reduction="mean", alpha=MEAN_ALPHA),
    f"sum {SUM_ALPHA}": Augmentation(reduction="sum", alpha=SUM_ALPHA),
  }
  for n in NUM_QUERIES:
    augmentations[f"{mean}, at most {n} a language"] = Augmentation(
      reduction="mean", alpha=MEAN_ALPHA, num_queries=n
    )
  found = evaluate(
    runs={
      "baseline": baseline,
      f"{mean}, another passage's queries": control,
    },
    questions=collection / "dev.jsonl",
    passages=collection / "corpus.tsv",
    qrels=collection / "qrels.jsonl",
    qrels_field="chunks_by_span",
    output_dir=output_dir,
    token_budgets=(100, 2000, 5000),
    measures=("Success@1", "RR@10"),
    augmentations=augmentations,
    k=K,
  )
  keep = ("baseline", "languages", "num_questions", "measures", "variants")
  return {key: found.metrics[key] for key in keep}


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  for name in ("real_run", "collection", "output_dir"):
    parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
  args = parser.parse_args()
  args.output_dir.mkdir(parents=True, exist_ok=True)
  baseline = args.real_run / "search_base"
  control = args.output_dir / "other_queries.trec"
  store = open_view(args.real_run / "store").store
  search_control(store, baseline, control)
  claims = compare(
    baseline, control, args.collection, args.output_dir / "evaluation"
  )
  write_json(
    args.output_dir / "claims_real.json",
    {"num_passages": store.num_passages, "claims": claims},
  )


if __name__ == "__main__":
  main()
