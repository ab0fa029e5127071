"""Schemas of the JSON files of sentence-transformers."""

from typing import NotRequired, TypedDict

from xqg_jax.io.typed_json import Count, Positive


class ModuleRecord(TypedDict):
  """An entry of `modules.json`."""

  type: str
  path: NotRequired[str]


class PoolingFile(TypedDict, total=False):
  """What is read of a Pooling's `config.json`, in its two forms."""

  pooling_mode: str | None
  include_prompt: bool | None


class PromptsFile(TypedDict, total=False):
  """What is read of `config_sentence_transformers.json`."""

  prompts: dict[str, str | None] | None
  truncate_dim: Count | None


class TransformerFile(TypedDict, total=False):
  """What is read of `sentence_bert_config.json`."""

  max_seq_length: Count | None
  query_length: Count | None
  document_length: Count | None
  do_lower_case: bool | None


class TokenizerSettings(TypedDict, total=False):
  """What is read of `tokenizer_config.json`."""

  # 10**30, written with all its digits, where nothing limits a text.
  model_max_length: int | float | None


class NormalizerRecord(TypedDict, total=False):
  """A normalizer of `tokenizer.json`, or a part of one."""

  type: str | None
  lowercase: bool | None


class NormalizersRecord(NormalizerRecord, total=False):
  """A normalizer that may have parts."""

  normalizers: list[NormalizerRecord]


class TokenizerFile(TypedDict, total=False):
  """What is read of `tokenizer.json` here; tokenizers checks the rest."""

  normalizer: NormalizersRecord | None


class DenseFile(TypedDict):
  """What is read of a Dense's `config.json`."""

  out_features: Positive
  bias: NotRequired[bool]
  activation_function: NotRequired[str]
  use_residual: NotRequired[bool | None]
  module_input_name: NotRequired[str | None]
  module_output_name: NotRequired[str | None]
