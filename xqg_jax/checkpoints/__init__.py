"""Checkpoints in and out: Hugging Face, T5X, and our own by Orbax."""

from xqg_jax.checkpoints.dual_encoders import (
  export_dual_encoder,
  load_dual_encoder,
)
from xqg_jax.checkpoints.folders import save_model_files
from xqg_jax.checkpoints.hugging_face.tensors import (
  find_hf_weights,
  read_hf_tensors,
  write_safetensors,
)
from xqg_jax.checkpoints.query_generators import (
  QueryGenerator,
  export_query_generator,
  load_query_generator,
)
from xqg_jax.checkpoints.steps import (
  find_checkpoint,
  list_steps,
  load_params,
  save_params,
  step_folder,
)
from xqg_jax.checkpoints.t5x.export import export_t5x

__all__ = [
  "QueryGenerator",
  "export_dual_encoder",
  "export_query_generator",
  "export_t5x",
  "find_checkpoint",
  "find_hf_weights",
  "list_steps",
  "load_dual_encoder",
  "load_params",
  "load_query_generator",
  "read_hf_tensors",
  "save_model_files",
  "save_params",
  "step_folder",
  "write_safetensors",
]
