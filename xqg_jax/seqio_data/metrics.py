"""Metrics of query generation tasks: chrF and the script of the outputs.

SeqIO hands a task's postprocessor each target with its example and each
prediction, and the metrics lists of what came out. Loss and accuracy are the
model's own metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from xqg_jax.data.languages import get_language, is_in_script

# A reference question, and the code of the language that was asked for.
Target = Mapping[str, str]


def postprocess(
  output: str | bytes,
  *,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
) -> str | dict[str, str]:
  """Makes a target of a reference question, and plain text of a prediction.

  >>> postprocess("Where?  ")
  'Where?'
  >>> postprocess("Missä?", example={"language": b"fi"}, is_target=True)
  {'query': 'Missä?', 'language': 'fi'}
  """
  text = " ".join(_to_text(output).split())
  if not is_target:
    return text
  language = _to_text((example or {})["language"])
  return {"query": text, "language": language}


def _to_text(value: Any) -> str:
  value = getattr(value, "item", lambda: value)()  # a numpy scalar
  return value.decode() if isinstance(value, bytes) else str(value)


def chrf(
  targets: Sequence[Target], predictions: Sequence[str]
) -> dict[str, float]:
  """ChrF of the predictions against the reference questions, 0 to 100.

  The F2 score of character n-grams up to 6 (Popovic 2015), over the corpus,
  as sacrebleu computes it. Characters suit languages written without spaces.

  >>> chrf([{"query": "abc def", "language": "en"}], ["abc def"])
  {'chrf': 100.0}
  """
  import sacrebleu  # only evaluation needs it

  references = [target["query"] for target in targets]
  return {"chrf": sacrebleu.corpus_chrf(list(predictions), [references]).score}


def right_script(
  targets: Sequence[Target], predictions: Sequence[str]
) -> dict[str, float]:
  """Share of predictions in the script of the language asked for, 0 to 1.

  >>> target = {"query": "Где?", "language": "ru"}
  >>> right_script([target, target], ["Где?", "Where?"])
  {'right_script': 0.5}
  """
  inside = [
    is_in_script(prediction, get_language(target["language"]))
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {"right_script": sum(inside) / max(1, len(inside))}


METRICS = (chrf, right_script)
