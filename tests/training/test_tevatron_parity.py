"""Steps of the dual encoder against Tevatron's recipe, written out in torch."""

import jax
import numpy as np
import pytest

from tests.helpers.tiny_collection import make_tokenizer
from xqg_jax.models.bert import encoder
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.runtime.sharding import make_mesh
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.losses.ranking import RankingObjective
from xqg_jax.training.optimizers import make_optimizer, make_schedule
from xqg_jax.training.state import Trainer

torch = pytest.importorskip("torch", reason="torch is the reference")
transformers = pytest.importorskip(
  "transformers", reason="transformers is the reference"
)

BERT = encoder.BertConfig(
  vocab_size=200,
  hidden_size=32,
  num_hidden_layers=1,
  num_attention_heads=4,
  intermediate_size=64,
  max_position_embeddings=32,
)
QUERIES, NEGATIVES = 6, 2
QUERY_LENGTH, PASSAGE_LENGTH = 12, 24
STEPS, WARMUP_STEPS, LEARNING_RATE, WEIGHT_DECAY = 20, 4, 3e-4, 0.1
# Tevatron's plain recipe, and the one of newer models.
RECIPES = {
  "inner product": {"temperature": 1.0, "normalize": False},
  "cosine": {"temperature": 0.05, "normalize": True},
}


# ------------------------------------------------------------- the reference


def make_torch_model():
  torch.manual_seed(0)
  settings = transformers.BertConfig(
    **{
      **BERT.to_hf(),
      "hidden_dropout_prob": 0.0,
      "attention_probs_dropout_prob": 0.0,
    }
  )
  model = transformers.BertModel(settings, add_pooling_layer=False)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.05 * torch.randn_like(parameter))
  return model.train()


def torch_loss(model, batch, *, temperature, normalize):
  """One encoder for both sides, CLS, all passages as candidates."""

  def embed(tokens):
    tokens = torch.tensor(tokens, dtype=torch.long)
    hidden = model(tokens, attention_mask=(tokens != 0).long())
    vectors = hidden.last_hidden_state[:, 0]
    return torch.nn.functional.normalize(vectors) if normalize else vectors

  passages = np.concatenate(
    [batch["passage_tokens"][:, None], batch["negative_passage_tokens"]], axis=1
  )
  scores = embed(batch["query_tokens"]) @ embed(
    passages.reshape(-1, PASSAGE_LENGTH)
  ).transpose(0, 1)
  target = torch.arange(0, scores.size(1), scores.size(1) // scores.size(0))
  return torch.nn.functional.cross_entropy(scores / temperature, target)


def make_torch_optimizer(model):
  """AdamW as Hugging Face's Trainer sets it up, and its linear schedule."""
  exempt = ("bias", "LayerNorm.weight")
  named = list(model.named_parameters())
  groups = [
    {
      "params": [p for name, p in named if name.endswith(exempt) == is_exempt],
      "weight_decay": 0.0 if is_exempt else WEIGHT_DECAY,
    }
    for is_exempt in (True, False)
  ]
  optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
  schedule = transformers.get_linear_schedule_with_warmup(
    optimizer, WARMUP_STEPS, STEPS
  )
  return optimizer, schedule


# --------------------------------------------------------------------- ours


def make_batch(seed):
  rng = np.random.default_rng(seed)

  def tokens(*shape):
    ids = rng.integers(4, BERT.vocab_size, shape)
    kept = rng.integers(3, shape[-1] + 1, (*shape[:-1], 1))
    return np.where(np.arange(shape[-1]) < kept, ids, 0).astype(np.int32)

  return {
    "query_tokens": tokens(QUERIES, QUERY_LENGTH),
    "passage_tokens": tokens(QUERIES, PASSAGE_LENGTH),
    "negative_passage_tokens": tokens(QUERIES, NEGATIVES, PASSAGE_LENGTH),
  }


def make_trainer(temperature, normalize):
  model, _ = DualEncoderModel(
    config=BERT,
    encoder=DualEncoderConfig(
      pooling="cls",
      normalize=normalize,
      query_length=QUERY_LENGTH,
      passage_length=PASSAGE_LENGTH,
    ),
    tokenizer=make_tokenizer("bert"),
    objective=RankingObjective(temperature=temperature),
    num_negatives=NEGATIVES,
    dropout_rate=0.0,
  ).complete(None)
  optimizer = make_optimizer(
    optimizer="adamw",
    learning_rate=make_schedule(
      schedule="linear",
      learning_rate=LEARNING_RATE,
      train_steps=STEPS,
      warmup_steps=WARMUP_STEPS,
    ),
    weight_decay=WEIGHT_DECAY,
    gradient_clip=1.0,
  )
  return Trainer(model, optimizer, make_mesh(devices=jax.devices()[:1]), 0)


def from_torch(model, get=lambda parameter: parameter):
  """A tree like our parameters, of whatever `get` takes from torch's."""
  tensors = {
    name: get(parameter).detach().numpy().copy()
    for name, parameter in model.named_parameters()
  }
  return {"encoder": encoder.params_from_hf(tensors, BERT)}


def assert_close(found, expected, atol):
  for (path, a), b in zip(
    jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(
      a, b, atol=atol, rtol=0, err_msg=jax.tree_util.keystr(path)
    )


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("recipe", RECIPES)
def test_loss_gradients_and_20_steps_equal_the_torch_recipe(recipe):
  reference = make_torch_model()
  trainer = make_trainer(**RECIPES[recipe])
  start = from_torch(reference)
  state = trainer.init_state(start)
  optimizer, schedule = make_torch_optimizer(reference)
  gradient = jax.jit(jax.value_and_grad(trainer.model.loss, has_aux=True))
  for step in range(STEPS):
    batch = make_batch(step)
    loss = torch_loss(reference, batch, **RECIPES[recipe])
    loss.backward()
    if step == 0:
      (found, _), found_gradient = gradient(start, batch, jax.random.key(0))
      assert float(found) == pytest.approx(loss.item(), abs=1e-5)
      expected = from_torch(reference, lambda parameter: parameter.grad)
      assert_close(found_gradient, expected, 1e-5)
    norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    assert norm > 1.0  # the limit is felt
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    state, metrics = trainer.step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(loss.item(), abs=1e-4)
  end = from_torch(reference)
  assert_close(state.params, end, 1e-4)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, end)
  # A bias of the keys adds the same to all logits of a query: no gradient.
  still = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, distance in jax.tree.leaves_with_path(moved)
    if distance < 1e-3
  ]
  assert still == ["encoder/layers_0/attention/key/bias"]
