"""SeqIO tasks of dual-encoder training."""

from typing import cast

import seqio

from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.seqio_data.dual_encoder_preprocessors import (
  make_dual_encoder_preprocessors,
)

SHUFFLE_BUFFER_SIZE = 10_000


def register_dual_encoder_task(
  *,
  name: str,
  source: seqio.DataSource,
  vocabulary: seqio.Vocabulary,
  config: DualEncoderConfig,
  draws_query: bool = False,
) -> None:
  """Registers a task of questions with positives and hard negatives.

  Args:
    name: such as `xdr_xor_tydi`; an earlier task of the name is replaced.
    source: of training pairs.
    vocabulary: of queries and passages.
    config: gives the prefixes of queries and passages.
    draws_query: whether an example has several `queries`, of which each epoch
      draws one.
  """
  features = {"query": 1, "passage": 1, "negative_passages": 2}
  seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(
    name,
    # Its protocol knows no source without a count, its base class does.
    source=cast(seqio.DataSourceInterface, source),
    preprocessors=make_dual_encoder_preprocessors(
      config, draws_query=draws_query
    ),
    output_features={
      key: seqio.Feature(vocabulary, add_eos=False, rank=rank)
      for key, rank in features.items()
    },
    shuffle_buffer_size=SHUFFLE_BUFFER_SIZE,
  )
