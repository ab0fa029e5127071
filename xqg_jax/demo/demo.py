"""Stage `demo`: every stage on an invented collection, training included.

The query generator starts from a small one that is shipped, as a real run
starts from a pretrained mT5, and is fine-tuned on the training split. One dual
encoder is trained on that split from scratch, another on the generated queries;
each is searched with and without augmentation.
"""

import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.data.questions import read_questions
from xqg_jax.demo.pretraining import (
  PROMPT_LENGTH,
  QUESTION_LENGTH,
  SHIPPED_GENERATOR,
  VOCAB_SIZE,
  pretrain_generator,
)
from xqg_jax.evaluation.tables import format_p
from xqg_jax.io.paths import Path, to_path
from xqg_jax.models.bert.config import BertConfig
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.stages.augment import augment
from xqg_jax.stages.encode import encode
from xqg_jax.stages.evaluate import Evaluation, evaluate
from xqg_jax.stages.generate import generate
from xqg_jax.stages.index import build_index
from xqg_jax.stages.pool import pool
from xqg_jax.stages.prepare import prepare
from xqg_jax.stages.report import report
from xqg_jax.stages.search import search
from xqg_jax.stages.train import train
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.losses.ranking import RankingObjective
from xqg_jax.training.query_generator_model import QueryGeneratorModel

PASSAGE_LENGTH = 64
CURVE = (0.01, 0.02, 0.05, 0.1, 0.2)
# Two questions for each entity of the training split, up to this size.
MAX_TRAIN_QUESTIONS = 28_000


@dataclasses.dataclass(frozen=True)
class Student:
  """A dual encoder of the demo, by what it learns from.

  Attributes:
    task: the task that it is trained on.
    suffix: of its folders' names.
    runs: names of its runs, plain and augmented.
  """

  task: str
  suffix: str
  runs: tuple[str, str]


STUDENTS = (
  Student("local_dual_encoder", "", ("baseline", "augmented")),
  Student(
    "local_dual_encoder_generated",
    "_generated",
    ("trained on generated", "trained on generated, augmented"),
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoRun:
  """One seed of the demo: its folder and settings.

  Attributes:
    folder: where the stages' outputs lie, one folder a stage.
    pretrained: the generator to start from.
    num_passages: size of the collection.
    seed: of the collection, both models and the sampling.
    generator_steps: training steps of the query generator.
    encoder_steps: training steps of each dual encoder.
    alpha: weight of the query sum.
  """

  folder: Path
  pretrained: Path
  num_passages: int
  seed: int
  generator_steps: int
  encoder_steps: int
  alpha: float

  def run(self) -> Evaluation:
    """Runs every stage; one that is finished is not run again."""
    for step in (
      self.prepare,
      self.train_generator,
      self.generate,
      self.train_encoders,
      self.encode_and_search,
    ):
      timed(step, step.__name__)
    return timed(self.evaluate, "evaluate")

  def prepare(self) -> None:
    """Writes the collection and its tokenizers."""
    prepare(
      output_dir=self.path("collection"),
      num_passages=self.num_passages,
      seed=self.seed,
      num_train_questions=min(
        round(1.4 * self.num_passages), MAX_TRAIN_QUESTIONS
      ),
      vocab_size=VOCAB_SIZE,
    )

  def _train(self, model_dir: str, **settings: Any) -> None:
    train(
      model_dir=self.path(model_dir),
      data_dir=self.path("collection"),
      batch_size=64,
      schedule="cosine",
      log_period=10,
      seed=self.seed,
      **settings,
    )

  def train_generator(self) -> None:
    """Fine-tunes the query generator on the training pairs."""
    self._train(
      "generator",
      model=QueryGeneratorModel(dropout_rate=0.0),
      initial_checkpoint_path=str(self.pretrained),
      mixture_or_task_name="local_generation",
      task_feature_lengths={
        "inputs": PROMPT_LENGTH,
        "targets": QUESTION_LENGTH,
      },
      train_steps=self.generator_steps,
      learning_rate=5e-4,
    )

  def generate(self) -> None:
    """Writes five queries for each passage and language."""
    generate(
      checkpoint_path=self.path("generator"),
      passages=self.path("collection/passages.tsv"),
      output_dir=self.path("generated_queries"),
      max_input_length=PROMPT_LENGTH,
      max_query_length=QUESTION_LENGTH,
      seed=self.seed,
    )

  def train_encoders(self) -> None:
    """Trains a dual encoder on the training pairs, one on the queries."""
    generated = GeneratedPairs(
      passages=self.path("collection/passages.tsv"),
      generated_queries=self.path("generated_queries"),
    )
    for student in STUDENTS:
      self._train(
        f"encoder{student.suffix}",
        model=make_encoder_model(self.path("collection/bert_tokenizer")),
        mixture_or_task_name=student.task,
        generated_pairs=generated if student.suffix else None,
        train_steps=self.encoder_steps,
        warmup_steps=self.encoder_steps // 10,
        learning_rate=2e-3,
      )

  def encode_and_search(self) -> None:
    """Encodes, augments, builds indexes and searches them."""
    for student in STUDENTS:
      self._encode(student)
      for run, embeddings in zip(student.runs, ("store", "view"), strict=True):
        self._search(student, run, self.path(embeddings + student.suffix))

  def _encode(self, student: Student) -> None:
    store = self.path(f"store{student.suffix}")
    encode(
      checkpoint_path=self.path(f"encoder{student.suffix}"),
      passages=self.path("collection/passages.tsv"),
      generated_queries=self.path("generated_queries"),
      output_dir=store,
    )
    augment(
      store=store,
      output_dir=self.path(f"view{student.suffix}"),
      alpha=self.alpha,
    )

  def _search(self, student: Student, run: str, embeddings: str) -> None:
    build_index(embeddings=embeddings, output_dir=self.path(f"indexes/{run}"))
    search(
      index=self.path(f"indexes/{run}"),
      questions=self.path("collection/questions_dev.jsonl"),
      checkpoint_path=self.path(f"encoder{student.suffix}"),
      output_dir=self.path(f"searches/{run}"),
    )

  def evaluate(self) -> Evaluation:
    """Compares the runs with the baseline on the dev questions."""
    return evaluate(
      runs={
        run: self.path(f"searches/{run}")
        for student in STUDENTS
        for run in student.runs
      },
      questions=self.path("collection/questions_dev.jsonl"),
      passages=self.path("collection/passages.tsv"),
      qrels=self.path("collection/qrels_dev.tsv"),
      output_dir=self.path("evaluation"),
      measures=("RR@10",),
      alphas=CURVE,
      tokenizer="no_sentences",
    )

  def path(self, name: str) -> str:
    """A place in the run's folder."""
    return str(self.folder / name)


def timed(step: Callable[[], Any], name: str) -> Any:
  """Runs a step and prints how long it took; returns its result."""
  start = time.monotonic()
  result = step()
  print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
  return result


def make_encoder_model(
  tokenizer: str, *, num_layers: int = 2, width: int = 64
) -> DualEncoderModel:
  """A small BERT with random parameters and mean pooling.

  Args:
    tokenizer: its folder.
    num_layers: of the transformer.
    width: of its hidden states; a multiple of 32, the width of a head.
  """
  return DualEncoderModel(
    config=BertConfig(
      vocab_size=VOCAB_SIZE,
      hidden_size=width,
      num_hidden_layers=num_layers,
      num_attention_heads=width // 32,
      intermediate_size=4 * width,
      max_position_embeddings=PASSAGE_LENGTH,
    ),
    encoder=DualEncoderConfig(
      pooling="mean",
      normalize=True,
      query_length=QUESTION_LENGTH,
      passage_length=PASSAGE_LENGTH,
    ),
    tokenizer=tokenizer,
    objective=RankingObjective(temperature=0.05),
    num_negatives=0,
    dropout_rate=0.0,
  )


def run_demo(
  *,
  output_dir: str,
  num_passages: int = 1000,
  seeds: Sequence[int] = (0,),
  generator_steps: int = 60,
  encoder_steps: int = 150,
  alpha: float = 0.1,
  retrain: bool = False,
) -> Evaluation:
  """Makes a collection, trains on it, and runs every stage to a report.

  Args:
    output_dir: folder to write; the same call goes on where it stopped.
    num_passages: size of each collection, 200 to 1,000,000.
    seeds: one whole run each; their evaluations are pooled.
    generator_steps: fine-tuning steps of the query generator.
    encoder_steps: training steps of each dual encoder.
    alpha: weight of the query sum in the augmented runs.
    retrain: pretrain the query generator here too, instead of starting from
      the shipped one; takes about 20 minutes on two CPU cores.

  Returns:
    The evaluation, pooled over the seeds if there are several. The page is
    `report/report.html` in the folder.

  Raises:
    InputError: a size out of range, or a folder that holds something else.
  """
  start = time.monotonic()
  folder = to_path(output_dir)
  pretrained = SHIPPED_GENERATOR
  if retrain:
    pretrained = pretrain_generator(output_dir=str(folder / "pretraining"))
  runs = [
    DemoRun(
      folder=folder / f"seed_{seed}",
      pretrained=pretrained,
      num_passages=num_passages,
      seed=seed,
      generator_steps=generator_steps,
      encoder_steps=encoder_steps,
      alpha=alpha,
    )
    for seed in seeds
  ]
  evaluations = [run.run() for run in runs]
  result = evaluations[0]
  if len(runs) > 1:
    result = pool(
      evaluations=[run.path("evaluation") for run in runs],
      output_dir=folder / "evaluation",
    )
  report(
    evaluations=[str(result.folder)],
    model_dirs=[
      runs[0].path(name)
      for name in ("generator", "encoder", "encoder_generated")
    ],
    generated_queries=runs[0].path("generated_queries"),
    output_dir=folder / "report",
    title="xqg_jax demo: queries generated in seven languages",
  )
  print(f"all together: {time.monotonic() - start:.0f} s")
  print(_conclude(result, runs[0]))
  return result


def _conclude(result: Evaluation, run: DemoRun) -> str:
  """What was found, in a sentence, and two commands to go on with."""
  measure = result.metrics["measures"][0]["name"]
  before, after = (result.result(name, measure) for name in STUDENTS[0].runs)
  asked = read_questions(run.path("collection/questions_dev.jsonl"))[0]
  settings = " ".join(
    f"--gin.{name}={shlex.quote(run.path(path))}"
    for name, path in (
      ("INDEX", f"indexes/{STUDENTS[0].runs[1]}"),
      ("CHECKPOINT_PATH", f"encoder{STUDENTS[0].suffix}"),
      ("PASSAGES", "collection/passages.tsv"),
    )
  )
  return (
    f"\nFound: with the sums of generated queries added, {measure} is "
    f"{after['value']:.1f} instead of {before['value']:.1f} (macro average, "
    f"p = {format_p(after['p'])}).\n"
    "Try one question, or a search page with a slider for alpha:\n"
    f"  xqg search --query {shlex.quote(asked.question)} {settings}\n"
    f"  xqg serve {settings}"
  )
