"""Cross-lingual dense retrieval with generated queries, in JAX.

One function a stage, each also a verb of the command line:

  prepare, plan, train, export, generate, filter_queries, encode, augment,
  center, tune_alpha, build_index, update_index, search, mine_negatives, ask,
  serve, evaluate, pool, submit, report

and of a store: describe_store, verify_store, export_store, import_vectors,
center_store.

Names are loaded when first used, so that `import xqg_jax` is light.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
  "Augmentation": "augmentation.settings",
  "AugmentedView": "augmentation.views",
  "CenterSettings": "augmentation.centering",
  "DualEncoder": "models.dual_encoder.dual_encoder",
  "DualEncoderConfig": "models.dual_encoder.config",
  "EmbeddingStore": "store.store",
  "GeneratedPairs": "data.generated_pairs",
  "GeneratedQueries": "data.generated_queries",
  "InputError": "errors",
  "LanguageMeans": "augmentation.language_means",
  "Passage": "data.passages",
  "Question": "data.questions",
  "TrainingPair": "data.training_pairs",
  "ask": "stages.search_query",
  "augment": "stages.augment",
  "augment_embeddings": "augmentation.fusion",
  "build_index": "stages.index",
  "center": "stages.center",
  "center_store": "stages.store_center",
  "encode": "stages.encode",
  "encode_texts": "encoding.texts",
  "describe_store": "stages.store_info",
  "evaluate": "stages.evaluate",
  "export": "stages.export",
  "export_store": "stages.store_export",
  "filter_queries": "stages.filter",
  "generate": "stages.generate",
  "import_vectors": "stages.store_import",
  "load_dual_encoder": "checkpoints",
  "load_query_generator": "checkpoints",
  "make_xor_mini": "xor_mini",
  "mine_negatives": "stages.mine_negatives",
  "open_store": "store.store",
  "open_view": "augmentation.views",
  "plan": "stages.plan",
  "pool": "stages.pool",
  "prepare": "stages.prepare",
  "read_generated_queries": "data.generated_queries",
  "read_means": "augmentation.language_means",
  "read_passages": "data.passages",
  "read_questions": "data.questions",
  "read_training_pairs": "data.training_pairs",
  "report": "stages.report",
  "run_demo": "demo.demo",
  "search": "stages.search",
  "serve": "stages.serve",
  "submit": "stages.submit",
  "success_at_k_tokens": "evaluation.success_at_k_tokens",
  "train": "stages.train",
  "tune_alpha": "stages.tune_alpha",
  "update_index": "stages.update_index",
  "verify_store": "stages.store_verify",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'xqg_jax' has no attribute {name!r}")
  module = importlib.import_module(f"xqg_jax.{_PUBLIC[name]}")
  return getattr(module, name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
