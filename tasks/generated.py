"""SeqIO tasks of training on generated queries, alone or mixed."""

import seqio

from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.seqio_data.sources import GeneratedPairsSource
from xqg_jax.seqio_data.vocabularies import load_vocabulary
from xqg_jax.tasks.dual_encoder import register_dual_encoder_task
from xqg_jax.text.tokenizer import Tokenizer

GENERATED, MIXED = "_generated", "_mixed"


def split_name(mixture_or_task_name: str) -> tuple[str, str]:
  """The task that a name of this module begins with, and its ending, if any.

  >>> split_name("xdr_xor_tydi_mixed"), split_name("xdr_nq")
  (('xdr_xor_tydi', '_mixed'), ('xdr_nq', ''))
  """
  for ending in (GENERATED, MIXED):
    if mixture_or_task_name.endswith(ending):
      return mixture_or_task_name.removesuffix(ending), ending
  return mixture_or_task_name, ""


def register_generated_tasks(
  *,
  name: str,
  pairs: GeneratedPairs,
  tokenizer: Tokenizer,
  config: DualEncoderConfig,
) -> None:
  """Registers the task `<name>_generated` and the mixture `<name>_mixed`.

  The mixture is there if a task or mixture `<name>` is; of its examples the
  share `pairs.share` is generated.

  Args:
    name: such as `local_dual_encoder` or `xdr_xor_tydi`.
    pairs: the generated queries.
    tokenizer: of the model.
    config: gives the prefixes of queries and passages.

  Raises:
    InputError: a malformed line, or queries of unknown passages.
  """
  generated, mixed = name + GENERATED, name + MIXED
  source = GeneratedPairsSource(pairs)
  source.num_input_examples("train")  # refuses malformed lines at once
  register_dual_encoder_task(
    name=generated,
    source=source,
    vocabulary=load_vocabulary(tokenizer),
    config=config,
    draws_query=True,
  )
  seqio.MixtureRegistry.remove(mixed)
  is_mixture = name in seqio.MixtureRegistry.names()
  if is_mixture or name in seqio.TaskRegistry.names():
    rates = [(name, 1 - pairs.share), (generated, pairs.share)]
    seqio.MixtureRegistry.add(mixed, rates)
