"""What encodes texts in the encoding benchmarks: ours and the programs beside.

Each has `embed(texts, max_length)`, which returns the vectors at the first
token in float32, and is given the folder of a BERT.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_BATCH = 32


class Tevatron:
  """Tevatron's way: transformers, texts one by one, padded to the length."""

  def __init__(self, folder: pathlib.Path, dtype: str):
    """Loads the model."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    self._torch = torch
    self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    self._model = transformers.BertModel.from_pretrained(
      folder, add_pooling_layer=False, dtype=getattr(torch, dtype)
    ).eval()

  def embed(self, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Embeds texts."""
    limits = {"truncation": True, "max_length": max_length}
    ids = [self._tokenizer(text, **limits)["input_ids"] for text in texts]
    found = []
    for start in range(0, len(ids), _BATCH):
      batch = self._tokenizer.pad(
        {"input_ids": ids[start : start + _BATCH]},
        padding="max_length",
        max_length=max_length,
        return_tensors="pt",
      )
      with self._torch.no_grad():
        hidden = self._model(**batch).last_hidden_state
      found.append(hidden[:, 0].float().numpy())
    return np.concatenate(found)


class SentenceTransformers:
  """sentence-transformers, which sorts by length and pads to a batch's own."""

  def __init__(self, folder: pathlib.Path, dtype: str):
    """Loads the model."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    torch.set_num_threads(os.cpu_count() or 1)
    transformer = Transformer(
      str(folder), model_kwargs={"dtype": getattr(torch, dtype)}
    )
    self._model = SentenceTransformer(
      modules=[transformer, Pooling(384, "cls")], device="cpu"
    )

  def embed(self, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Embeds texts."""
    self._model.max_seq_length = max_length
    vectors = self._model.encode(
      list(texts),
      batch_size=_BATCH,
      show_progress_bar=False,
      convert_to_tensor=True,
    )
    return vectors.float().numpy()


class Onnx:
  """ONNX Runtime, texts sorted by length and padded to a batch's longest."""

  def __init__(self, folder: pathlib.Path, dtype: str):
    """Exports the model beside its folder, if need be, and opens it."""
    import onnxruntime
    import transformers

    self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.inter_op_num_threads = 1
    self._session = onnxruntime.InferenceSession(
      export_onnx(folder, dtype), options, providers=["CPUExecutionProvider"]
    )

  def embed(self, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Embeds texts."""
    ids = self._tokenizer(list(texts), truncation=True, max_length=max_length)[
      "input_ids"
    ]
    order = sorted(range(len(ids)), key=lambda text: -len(ids[text]))
    vectors: Any = [None] * len(ids)
    for start in range(0, len(order), _BATCH):
      some = order[start : start + _BATCH]
      padded = self._tokenizer.pad(
        {"input_ids": [ids[text] for text in some]}, return_tensors="np"
      )
      inputs = {
        name: padded[name].astype(np.int64)
        for name in ("input_ids", "attention_mask")
      }
      (hidden,) = self._session.run(None, inputs)
      for text, vector in zip(some, hidden[:, 0], strict=True):
        vectors[text] = vector
    return np.stack(vectors)


def export_onnx(folder: pathlib.Path, dtype: str) -> str:
  """Writes the model for ONNX Runtime: "float32", or "int8" by its own tool."""
  target = folder.parent / f"bert_onnx_{dtype}" / "model.onnx"
  if not target.exists():
    target.parent.mkdir(exist_ok=True)
    if dtype == "int8":
      from onnxruntime.quantization import QuantType, quantize_dynamic

      quantize_dynamic(
        export_onnx(folder, "float32"),
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
      )
    else:
      _export_float32(folder, target)
  return str(target)


def _export_float32(folder: pathlib.Path, target: pathlib.Path) -> None:
  import torch
  import transformers

  class Hidden(torch.nn.Module):
    """Only the last hidden state."""

    def __init__(self):
      super().__init__()
      self.model = transformers.BertModel.from_pretrained(
        folder, add_pooling_layer=False, attn_implementation="eager"
      ).eval()

    def forward(self, ids: Any, mask: Any) -> Any:
      return self.model(ids, attention_mask=mask).last_hidden_state

  ids = torch.ones((2, 8), dtype=torch.int64)
  names = ["input_ids", "attention_mask"]
  torch.onnx.export(
    Hidden(),
    (ids, ids),
    str(target),
    input_names=names,
    output_names=["hidden"],
    dynamic_axes={name: {0: "batch", 1: "length"} for name in names},
    opset_version=17,
    dynamo=False,
  )


class Ours:
  """Packed rows, as `xqg search` encodes questions."""

  def __init__(self, folder: pathlib.Path, dtype: str):
    """Loads the model."""
    from xqg_jax.checkpoints import load_dual_encoder
    from xqg_jax.cli.process import keep_freed_memory
    from xqg_jax.models.dual_encoder.config import DualEncoderConfig

    keep_freed_memory()
    config = DualEncoderConfig(pooling="cls", normalize=False)
    self._encoder = load_dual_encoder(folder, config=config, dtype=dtype)

  def embed(self, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Embeds texts."""
    from xqg_jax.encoding.texts import encode_texts

    return encode_texts(
      self._encoder, texts, side="query", max_length=max_length
    )


_MAKERS: dict[str, Callable[[pathlib.Path, str], Any]] = {
  "tevatron": Tevatron,
  "sentence_transformers": SentenceTransformers,
  "onnx": Onnx,
  "ours": Ours,
}


def make_peer(folder: pathlib.Path, variant: str) -> Any:
  """Loads what a variant, such as `onnx_int8`, needs."""
  name, _, dtype = variant.rpartition("_")
  return _MAKERS[name](folder, dtype)
