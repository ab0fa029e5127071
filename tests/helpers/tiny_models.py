"""Tiny models of both kinds that can be trained."""

from tests.helpers.tiny_collection import make_tokenizer
from xqg_jax.models.bert.config import BertConfig
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.t5.config import T5Config
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.query_generator_model import QueryGeneratorModel

BERT = BertConfig(
  vocab_size=201,  # which no mesh divides
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=32,
  max_position_embeddings=32,
)
ENCODER = DualEncoderConfig(
  pooling="mean", normalize=False, query_length=12, passage_length=16
)
T5 = T5Config(
  vocab_size=200,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=32,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
MODELS = {
  "dual_encoder": lambda: DualEncoderModel(
    config=BERT,
    encoder=ENCODER,
    tokenizer=make_tokenizer("bert"),
    num_negatives=2,
  ),
  "generation": lambda: QueryGeneratorModel(
    config=T5, tokenizer=make_tokenizer("t5")
  ),
}
