"""Cross-lingual dense retrieval with generated queries, in JAX.

One function a stage, each also a verb of the command line:

  prepare, plan, train, export, generate, filter_queries, encode, augment,
  tune_alpha, build_index, update_index, search, mine_negatives, ask, serve,
  evaluate, pool, submit, report

and of a store: describe_store, verify_store, export_store, import_vectors.

Names are loaded when first used, so that `import xqg_jax` is light.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
  "Augmentation": "fusion",
  "AugmentedView": "augmentation",
  "DualEncoder": "models.dual_encoder",
  "DualEncoderConfig": "models.dual_encoder",
  "EmbeddingStore": "store",
  "GeneratedPairs": "generated_pairs",
  "GeneratedQueries": "records",
  "InputError": "errors",
  "Passage": "records",
  "Question": "records",
  "TrainingPair": "training_pairs",
  "ask": "asking",
  "augment": "augmentation",
  "augment_embeddings": "fusion",
  "build_index": "indexing",
  "encode": "encoding",
  "encode_texts": "encoding",
  "describe_store": "store_tools",
  "evaluate": "evaluation",
  "export": "exporting",
  "export_store": "store_export",
  "filter_queries": "filtering",
  "generate": "generation",
  "import_vectors": "store_import",
  "load_dual_encoder": "checkpoints",
  "load_query_generator": "checkpoints",
  "make_xor_mini": "xor_mini",
  "mine_negatives": "mining",
  "open_store": "store",
  "open_view": "augmentation",
  "plan": "planning",
  "pool": "pooled_evaluation",
  "prepare": "preparation",
  "read_generated_queries": "records",
  "read_passages": "records",
  "read_questions": "records",
  "read_training_pairs": "training_pairs",
  "report": "reporting",
  "run_demo": "demo",
  "search": "searching",
  "serve": "serving",
  "submit": "submission",
  "success_at_k_tokens": "measures",
  "train": "training",
  "tune_alpha": "tuning",
  "update_index": "index_updating",
  "verify_store": "store_tools",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'xqg_jax' has no attribute {name!r}")
  module = importlib.import_module(f"xqg_jax.{_PUBLIC[name]}")
  return getattr(module, name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
