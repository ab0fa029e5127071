"""A dual encoder with random parameters, and texts for it."""

import functools
import pathlib

import jax
import numpy as np

from xqg_jax.checkpoints import save_model_files, save_params
from xqg_jax.models.bert.encoder import BertConfig, BertEncoder
from xqg_jax.models.dual_encoder.config import DualEncoderConfig, Side
from xqg_jax.models.dual_encoder.dual_encoder import (
  DualEncoder,
  make_dual_encoder,
)
from xqg_jax.models.dual_encoder.network import make_network
from xqg_jax.models.parameters import init_params
from xqg_jax.text.tokenizer_training import train_tokenizer

WORDS = "river lake hill town king queen north south old new red blue".split()
MODEL = BertConfig(
  vocab_size=128,
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=32,
  max_position_embeddings=96,
)
CONFIG = DualEncoderConfig(
  pooling="mean",
  normalize=True,
  query_prefix="q: ",
  passage_prefix="p: ",
  query_length=24,
  passage_length=80,
)


def make_texts(count: int, *, longest: int, seed: int = 0) -> list[str]:
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, longest + 1, size=count)
  return [" ".join(rng.choice(WORDS, size=n)) for n in lengths]


@functools.cache
def make_encoder(
  config: DualEncoderConfig = CONFIG, seed: int = 0
) -> DualEncoder:
  network = make_network(BertEncoder(MODEL), config)
  params = init_params(network, jax.random.key(seed))
  # Larger than at the start of training, so that texts differ clearly.
  params = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, params)
  return make_dual_encoder(
    model_config=MODEL,
    params=params,
    config=config,
    tokenizer=train_tokenizer(
      make_texts(200, longest=9), vocab_size=128, style="bert"
    ),
  )


def write_checkpoint(
  folder: pathlib.Path, seed: int = 0, config: DualEncoderConfig = CONFIG
) -> pathlib.Path:
  encoder = make_encoder(config, seed=seed)
  save_model_files(
    folder,
    model_config_hf=MODEL.to_hf(),
    tokenizer=encoder.tokenizer,
    dual_encoder_config=encoder.config,
  )
  save_params(folder, 1, encoder.params)
  return folder


_jitted = {}


def _jit_once(module, config, side, embed):
  return _jitted.setdefault((module, config, side), jax.jit(embed))


def embed_one_by_one(
  encoder: DualEncoder,
  texts: list[str],
  max_length: int,
  side: Side = "passage",
) -> np.ndarray:
  """The reference: each text alone in a row, the rest of it padding."""
  embed = functools.partial(encoder.embed, side=side, num_segments=1)
  embed = _jit_once(encoder.module, encoder.config, side, embed)
  vectors = []
  for tokens in encoder.tokenizer.encode_batch(texts, max_length=max_length):
    padding = (0, MODEL.max_position_embeddings - len(tokens))
    row = np.pad(tokens, padding)[None]
    is_text = np.pad(np.ones_like(tokens), padding)[None]
    positions = np.pad(np.arange(len(tokens), dtype=np.int32), padding)[None]
    vectors.append(embed(encoder.params, row, is_text, positions)[0, 0])
  return np.stack(vectors)
