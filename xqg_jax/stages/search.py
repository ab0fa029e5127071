"""Stage `search`: the passages of an index for questions.

run.trec                 ranked passages with scores
question_embeddings.npy  [questions, dim] float32, of what was searched with,
                         in order of question_ids
manifest.json            index, embeddings, encoder, question ids, languages,
                         and how the questions were centred
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from xqg_jax.augmentation.centering import (
  NOT_CENTERED,
  Centering,
  CenterSettings,
)
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.questions import Question, read_questions
from xqg_jax.data.runs import Run, make_run, write_run
from xqg_jax.encoding.embedder import check_compute_dtype
from xqg_jax.encoding.questions import encode_questions
from xqg_jax.errors import InputError
from xqg_jax.evaluation.search_folder import (
  CENTERING_KEY,
  EMBEDDINGS_FILE,
  EMBEDDINGS_KEY,
  FORMAT_VERSION,
  RUN_FILE,
  RUN_KEY,
  SearchManifest,
)
from xqg_jax.indexes.exact.search import EXACT, ExactSettings
from xqg_jax.indexes.index import Index
from xqg_jax.indexes.kinds import (
  check_encoder,
  open_centering,
  open_index,
)
from xqg_jax.indexes.rescoring import (
  SUM,
  FusionSettings,
  check_groups,
  rescore,
)
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import sha256_file, write_array, write_json
from xqg_jax.io.locations import relate_location
from xqg_jax.io.manifests import read_sound_manifest
from xqg_jax.io.paths import Path
from xqg_jax.io.shared_claims import claim_in_turn, lock_together
from xqg_jax.io.typed_json import Positive
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.runtime.processes import is_first_process, wait_for_all


def search(
  *,
  index: str | os.PathLike,
  questions: str | os.PathLike,
  checkpoint_path: str | os.PathLike,
  output_dir: str | os.PathLike,
  encoder: DualEncoderConfig | None = None,
  k: Positive = 100,
  compute_dtype: Literal["float32", "bfloat16"] = "float32",
  exact: ExactSettings = EXACT,
  centering: CenterSettings = NOT_CENTERED,
  fusion: FusionSettings = SUM,
) -> Path:
  """Encodes questions and finds the k nearest passages of each.

  Args:
    index: folder that `index` wrote.
    questions: XOR-TyDi JSONL file.
    checkpoint_path: the dual encoder that also encoded the passages.
    output_dir: folder to write; an identical call finds its work done.
    encoder: pooling, prefixes and lengths; the checkpoint's own when absent.
    k: passages for each question; all of them when the index holds fewer.
    compute_dtype: of the encoder's products and activations, as for `encode`.
    exact: dtype and, on TPUs, recall of the search of an exact index.
    centering: how much of their language's mean is subtracted from questions.
    fusion: how the k passages are scored again by their generated queries,
      where the store keeps one sum a language.

  Returns:
    The folder.

  Raises:
    InputError: bad questions (the message names file and line), an index of
      another encoder's vectors or with changed files, means of another
      encoder, or an output folder that holds something else.
    ScannError: ScaNN failed or crashed.
  """
  if k < 1:
    raise InputError(f"k is {k}", mend="ask for at least one passage")
  check_compute_dtype(compute_dtype)
  opened = open_index(index)
  asked = read_questions(questions)
  model = load_dual_encoder(
    checkpoint_path, config=encoder, dtype=compute_dtype
  )
  check_encoder(opened, model)
  centered = open_centering(centering, opened, model)
  arguments = {
    "index_fingerprint": opened.fingerprint,
    "questions": sha256_file(questions),
    "encoder_fingerprint": model.fingerprint,
    "query_length": model.config.query_length,
    "k": k,
    **({} if compute_dtype == "float32" else {"compute_dtype": compute_dtype}),
    **({} if exact == EXACT else dataclasses.asdict(exact)),
    **_describe_centering(centered, None),
    **_describe_fusion(fusion),
  }
  if fusion.kind != "sum":
    check_groups(opened.open_embeddings().store.groups)
  folder = claim_in_turn(output_dir, stage="search", arguments=arguments)
  is_done = _is_finished(folder)
  wait_for_all(f"look at {folder}")
  if not is_done:
    with lock_together(folder), opened:
      how = _How(k, exact, centered, fusion)
      _write_search(folder, opened, asked, model, how)
  return folder


class _How(NamedTuple):
  """How questions are searched with."""

  k: int
  exact: ExactSettings
  centering: Centering
  fusion: FusionSettings


def _is_finished(folder: Path) -> bool:
  """Whether a sound search is there; the first process looks for all."""
  if is_first_process():
    read_sound_manifest(
      folder,
      SearchManifest,
      task="search",
      list_files=lambda manifest: {
        RUN_FILE: manifest.get(RUN_KEY),
        EMBEDDINGS_FILE: manifest.get(EMBEDDINGS_KEY),
      },
    )
  wait_for_all(f"check {folder}")
  return (folder / MANIFEST_FILE).exists()


def _write_search(
  folder: Path,
  index: Index,
  questions: Sequence[Question],
  model: DualEncoder,
  how: _How,
) -> None:
  embeddings, run = _find_passages(index, questions, model, how)
  if not is_first_process():
    return
  write_run(folder / RUN_FILE, run)
  write_array(folder / EMBEDDINGS_FILE, embeddings)
  manifest = {
    "format_version": FORMAT_VERSION,
    "index": relate_location(index.path, folder),
    "index_fingerprint": index.fingerprint,
    "index_kind": index.kind,
    "embeddings": relate_location(index.embeddings, folder),
    "embeddings_fingerprint": index.manifest["embeddings_fingerprint"],
    "encoder_fingerprint": model.fingerprint,
    "k": how.k,
    "run": sha256_file(folder / RUN_FILE),
    "question_embeddings": sha256_file(folder / EMBEDDINGS_FILE),
    "question_ids": [question.question_id for question in questions],
    "languages": [question.language for question in questions],
    **_describe_centering(how.centering, folder),
    **_describe_fusion(how.fusion),
  }
  write_json(folder / MANIFEST_FILE, manifest)


def _describe_centering(
  centering: Centering, folder: Path | None
) -> dict[str, Any]:
  """What the claim, or a folder's manifest, notes; nothing without strength."""
  noted = centering.to_json()
  if noted is None:
    return {}
  if folder is not None and centering.path is not None:
    noted["means"] = relate_location(centering.path, folder)
  return {CENTERING_KEY: noted}


def _describe_fusion(fusion: FusionSettings) -> dict[str, Any]:
  noted = fusion.to_json()
  return {} if noted is None else {"fusion": noted}


def _find_passages(
  index: Index,
  questions: Sequence[Question],
  model: DualEncoder,
  how: _How,
) -> tuple[Float[np.ndarray, "questions dim"], Run]:
  """Encodes and searches, and tells how fast that went."""
  passage_ids = index.passage_ids
  started = time.perf_counter()
  languages = [question.language for question in questions]
  embeddings = encode_questions(
    model,
    [question.question for question in questions],
    languages,
    centering=how.centering,
  )
  encoded = time.perf_counter()
  scores, rows = index.search(
    embeddings, how.k, settings=how.exact, across_processes=True
  )
  searched = time.perf_counter()
  if how.fusion.kind != "sum":
    store = index.open_embeddings().store
    scores, rows = rescore(
      (scores, rows), embeddings, languages, store, how.fusion
    )
    taken = 1000 * (time.perf_counter() - searched) / len(questions)
    print(f"scored again by queries: {taken:.2f} ms each", file=sys.stderr)
  print(
    f"{len(questions)} questions: "
    f"encoded {len(questions) / (encoded - started):,.0f}/s, "
    f"searched {len(questions) / (searched - encoded):,.0f}/s ({index.kind})",
    file=sys.stderr,
  )
  question_ids = [question.question_id for question in questions]
  return embeddings, make_run(question_ids, passage_ids, scores, rows)
