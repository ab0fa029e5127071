"""Tests the paper's claims, and this project's own, on an invented collection.

  python scripts/claims.py --output_dir=claims

One collection of `xor_mini`, one query generator and its queries; for each seed
dual encoders of their own, on the same dev questions. What is finished is not
run again, and more seeds can be added later. Writes `claims.json`, from which
`scripts/write_reproduction.py` makes tables and plots.
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from xqg_jax.augmentation.fusion import augment_embeddings
from xqg_jax.augmentation.settings import Augmentation
from xqg_jax.augmentation.views import open_view
from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.data.questions import read_questions, write_questions
from xqg_jax.data.runs import make_run, write_run
from xqg_jax.data.training_pairs import (
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.demo.demo import DemoRun, make_encoder_model, timed
from xqg_jax.demo.pretraining import SHIPPED_GENERATOR, VOCAB_SIZE
from xqg_jax.indexes.exact.search import search_exact
from xqg_jax.io.files import read_json, write_json
from xqg_jax.stages.augment import augment
from xqg_jax.stages.encode import encode
from xqg_jax.stages.evaluate import evaluate
from xqg_jax.stages.index import build_index
from xqg_jax.stages.pool import pool
from xqg_jax.stages.prepare import prepare
from xqg_jax.stages.search import search
from xqg_jax.stages.train import train

# Named before any of these runs; `ALPHAS` show what others would have given.
ALPHA = 0.05
ALPHAS = (0.01, 0.02, 0.1, 0.2)
MEAN_ALPHAS = (0.5, 0.65, 0.8, 0.9)
ZERO_SHOT_LANGUAGE = "fi"
K = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """How a dual encoder is trained.

  Attributes:
    data: folder of its training pairs.
    task: the task.
    questions: the dev questions that it is asked.
    num_layers: of the transformer.
    width: of the transformer.
    group_queries_by: how its store keeps the query sums apart.
  """

  data: str = "collection"
  task: str = "local_dual_encoder"
  questions: str = "collection/questions_dev.jsonl"
  num_layers: int = 2
  width: int = 64
  group_queries_by: tuple[str, ...] = ()


SETTINGS = {
  "stronger": Setting(group_queries_by=("language", "rank")),
  "weaker": Setting(num_layers=1, width=32),
  "zero_shot": Setting(
    data="one_language", questions="one_language/questions_of_others.jsonl"
  ),
  "generated": Setting(task="local_dual_encoder_generated"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laboratory:
  """The runs of all seeds, in one folder.

  Attributes:
    folder: where everything lies.
    num_passages: size of the collection.
    num_train_questions: training pairs of generator and encoders.
    generator_steps: fine-tuning steps of the query generator.
    encoder_steps: training steps of each dual encoder.
  """

  folder: pathlib.Path
  num_passages: int
  num_train_questions: int
  generator_steps: int
  encoder_steps: int

  def path(self, name: str) -> str:
    """A place in the folder."""
    return str(self.folder / name)

  def prepare(self) -> None:
    """Makes the collection, the generator and its queries."""
    prepare(
      output_dir=self.path("collection"),
      num_passages=self.num_passages,
      num_train_questions=self.num_train_questions,
      vocab_size=VOCAB_SIZE,
    )
    self._write_one_language()
    demo = DemoRun(
      folder=self.folder,
      pretrained=SHIPPED_GENERATOR,
      num_passages=self.num_passages,
      seed=0,
      generator_steps=self.generator_steps,
      encoder_steps=self.encoder_steps,
      alpha=ALPHA,
    )
    demo.train_generator()
    demo.generate()

  def _write_one_language(self) -> None:
    target = self.folder / "one_language" / "train_pairs.jsonl"
    target.parent.mkdir(exist_ok=True)
    pairs = read_training_pairs(self.folder / "collection/train_pairs.jsonl")
    with target.open("w", encoding="utf-8") as file:
      write_training_pairs(
        file, (p for p in pairs if p.language == ZERO_SHOT_LANGUAGE)
      )
    questions = read_questions(self.path("collection/questions_dev.jsonl"))
    others = target.parent / "questions_of_others.jsonl"
    with others.open("w", encoding="utf-8") as file:
      write_questions(
        file, (q for q in questions if q.language != ZERO_SHOT_LANGUAGE)
      )

  def run_seed(self, seed: int) -> None:
    """Trains, encodes, searches and evaluates with one seed."""
    for name in SETTINGS:
      timed(functools.partial(self._train_and_encode, seed, name), name)
    timed(functools.partial(self._rearrange, seed), "rearranged")
    for claim, runs in _list_claims().items():
      timed(functools.partial(self._evaluate, seed, claim, runs), claim)

  def _train_and_encode(self, seed: int, name: str) -> None:
    setting = SETTINGS[name]
    here = f"seed_{seed}/{name}"
    generated = GeneratedPairs(
      passages=self.path("collection/passages.tsv"),
      generated_queries=self.path("generated_queries"),
    )
    is_human = setting.task == "local_dual_encoder"
    train(
      model_dir=self.path(f"{here}/encoder"),
      model=make_encoder_model(
        self.path("collection/bert_tokenizer"),
        num_layers=setting.num_layers,
        width=setting.width,
      ),
      data_dir=self.path(setting.data),
      generated_pairs=None if is_human else generated,
      mixture_or_task_name=setting.task,
      train_steps=self.encoder_steps,
      warmup_steps=self.encoder_steps // 10,
      batch_size=64,
      schedule="cosine",
      learning_rate=2e-3,
      seed=seed,
    )
    encode(
      checkpoint_path=self.path(f"{here}/encoder"),
      passages=self.path("collection/passages.tsv"),
      generated_queries=self.path("generated_queries"),
      output_dir=self.path(f"{here}/store"),
      group_queries_by=setting.group_queries_by,
    )
    augment(
      store=self.path(f"{here}/store"),
      output_dir=self.path(f"{here}/view"),
      alpha=ALPHA,
    )
    for run, embeddings in (("base", "store"), ("augmented", "view")):
      self._search(here, run, embeddings, self.path(setting.questions))

  def _search(
    self, here: str, run: str, embeddings: str, questions: str
  ) -> None:
    build_index(
      embeddings=self.path(f"{here}/{embeddings}"),
      output_dir=self.path(f"{here}/index_{run}"),
      kind="exact",
    )
    search(
      index=self.path(f"{here}/index_{run}"),
      questions=questions,
      checkpoint_path=self.path(f"{here}/encoder"),
      output_dir=self.path(f"{here}/{run}"),
      k=K,
    )

  def _rearrange(self, seed: int) -> None:
    """Searches what the stages do not make: other queries, uneven numbers.

    All from the stored sums: the control gives each passage those of the next;
    for uneven numbers each passage keeps each of its queries with a chance of
    its own, drawn evenly between 0 and 1.
    """
    here = self.folder / f"seed_{seed}"
    store = open_view(here / "stronger/store").store
    block = next(iter(store.blocks(store.num_passages)))
    sums, counts = block.query_sums, block.query_counts
    rng = np.random.default_rng(seed)
    chance = rng.random((len(sums), 1))
    kept = rng.random(counts.shape) < chance
    uneven = np.einsum("pgd,pg->pd", sums, kept), (counts * kept).sum(axis=1)
    rotated = np.roll(sums.sum(axis=1), -1, axis=0), counts.sum(axis=1)
    makers = {"other_queries": (*rotated, "sum", ALPHA)}
    for alpha in (*ALPHAS, ALPHA):
      makers[f"uneven_sum_{alpha}"] = (*uneven, "sum", alpha)
    for alpha in MEAN_ALPHAS:
      makers[f"uneven_mean_{alpha}"] = (*uneven, "mean", alpha)
    questions = read_json(here / "stronger/base/manifest.json")["question_ids"]
    vectors = np.load(here / "stronger/base/question_embeddings.npy")
    for name, (query_sum, count, reduction, alpha) in makers.items():
      passages = augment_embeddings(
        block.passages, query_sum, count, reduction=reduction, alpha=alpha
      ).astype(np.float32)
      found = search_exact(vectors, [(0, passages)], K)
      run = make_run(questions, store.passage_ids, *found)
      write_run(here / f"rearranged/{name}.trec", run)

  def _evaluate(self, seed: int, claim: str, runs: "Runs") -> None:
    here = self.folder / f"seed_{seed}"
    setting = SETTINGS.get(claim, SETTINGS["stronger"])
    evaluate(
      runs={name: here / place for name, place in runs.places.items()},
      questions=self.path(setting.questions),
      passages=self.path("collection/passages.tsv"),
      qrels=self.path("collection/qrels_dev.tsv"),
      output_dir=str(here / "evaluations" / claim),
      measures=("RR@10",),
      augmentations=runs.augmentations,
      tokenizer="no_sentences",
      k=K,
    )

  def pool(self, seeds: list[int]) -> None:
    """Takes the seeds together and writes `claims.json`."""
    claims = {}
    for claim in _list_claims():
      pooled = pool(
        evaluations=[self.path(f"seed_{s}/evaluations/{claim}") for s in seeds],
        output_dir=self.path(f"pooled_{'_'.join(map(str, seeds))}/{claim}"),
      )
      keep = ("baseline", "languages", "num_questions", "measures", "variants")
      claims[claim] = {key: pooled.metrics[key] for key in keep}
    write_json(
      self.folder / "claims.json",
      {
        "num_passages": self.num_passages,
        "num_train_questions": self.num_train_questions,
        "generator_steps": self.generator_steps,
        "encoder_steps": self.encoder_steps,
        "seeds": seeds,
        "alpha": ALPHA,
        "claims": claims,
      },
    )


@dataclasses.dataclass(frozen=True)
class Runs:
  """The runs that a claim compares; the first is the baseline.

  Attributes:
    places: where each lies in a seed's folder, by its name.
    augmentations: further ones, from the baseline's embeddings.
  """

  places: Mapping[str, str]
  augmentations: Mapping[str, Augmentation] = dataclasses.field(
    default_factory=dict
  )


def _list_claims() -> dict[str, Runs]:
  def compare(setting: str) -> Runs:
    return Runs(
      {
        "baseline": f"{setting}/base",
        "augmented": f"{setting}/augmented",
      }
    )

  def vary(reduction: str, alpha: float, n: int | None = None) -> Augmentation:
    return Augmentation(reduction=reduction, alpha=alpha, num_queries=n)

  uneven = {
    f"{reduction} {alpha}": f"rearranged/uneven_{reduction}_{alpha}.trec"
    for reduction, alphas in (
      ("sum", (ALPHA, *ALPHAS)),
      ("mean", MEAN_ALPHAS),
    )
    for alpha in alphas
  }
  return {
    "stronger": compare("stronger"),
    "weaker": compare("weaker"),
    "zero_shot": compare("zero_shot"),
    "num_queries": Runs(
      {"baseline": "stronger/base"},
      {f"{n} a language": vary("sum", ALPHA, n) for n in range(1, 6)},
    ),
    "alphas": Runs(
      {"baseline": "stronger/base"},
      {f"sum {a}": vary("sum", a) for a in sorted((ALPHA, *ALPHAS))}
      | {f"mean {a}": vary("mean", a) for a in MEAN_ALPHAS},
    ),
    "control": Runs(
      {
        "baseline": "stronger/base",
        "own queries": "stronger/augmented",
        "another passage's queries": "rearranged/other_queries.trec",
      }
    ),
    "uneven": Runs(uneven),
    "training": Runs(
      {
        "human pairs, augmented": "stronger/augmented",
        "human pairs": "stronger/base",
        "generated queries": "generated/base",
        "generated queries, augmented": "generated/augmented",
      }
    ),
    "training_augmented": compare("generated"),
  }


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  parser.add_argument("--num_passages", type=int, default=20_000)
  # So few pairs and steps that the baseline has about the R@2kt of the paper's,
  # 44: with 14,000 and 600 it has 94, and little is left to gain.
  parser.add_argument("--num_train_questions", type=int, default=4500)
  parser.add_argument("--generator_steps", type=int, default=100)
  parser.add_argument("--encoder_steps", type=int, default=300)
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
  args = parser.parse_args()
  args.output_dir.mkdir(parents=True, exist_ok=True)
  laboratory = Laboratory(
    folder=args.output_dir,
    num_passages=args.num_passages,
    num_train_questions=args.num_train_questions,
    generator_steps=args.generator_steps,
    encoder_steps=args.encoder_steps,
  )
  timed(laboratory.prepare, "queries")
  for seed in args.seeds:
    laboratory.run_seed(seed)
  laboratory.pool(args.seeds)


if __name__ == "__main__":
  main()
