"""SeqIO tasks of query generation: one a language, and their mixtures."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import cast

import seqio

from xqg_jax.data.languages import LANGUAGES, get_languages
from xqg_jax.errors import InputError
from xqg_jax.seqio_data import metrics, preprocessors
from xqg_jax.seqio_data.sources import PassagesSource

# An inputs/targets pair is small, and a mixture fills a buffer a language.
SHUFFLE_BUFFER_SIZE = 2_000

RATES = {
  "proportional": seqio.mixing_rate_num_examples,
  "equal": 1.0,
  # The usual softening of multilingual mixtures: sizes to the power of 0.5.
  "temperature": functools.partial(
    seqio.mixing_rate_num_examples, temperature=2.0
  ),
}


def register_generation_tasks(
  *,
  name: str,
  make_source: Callable[[str], seqio.DataSource],
  languages: Sequence[str],
  vocabulary: seqio.Vocabulary,
  language_in: str = "prompt",
) -> None:
  """Registers tasks `<name>_<language>` and their mixtures.

  `<name>` draws languages in proportion to their sizes, `<name>_equal` all
  alike, `<name>_temperature` by the square roots of their sizes.

  Args:
    name: such as `xqg_generation`; earlier tasks of the name are replaced.
    make_source: makes the source of training pairs of a language.
    languages: their codes of ISO 639.
    vocabulary: of prompts and questions.
    language_in: "prompt" or "decoder": what names the language, the prompt or
      the beginning of the question.

  Raises:
    InputError: an unknown language.
  """
  codes = [language.code for language in get_languages(languages)]
  for code in codes:
    _add_task(
      f"{name}_{code}",
      make_source(code),
      preprocessors.make_generation_preprocessors(code, language_in),
      vocabulary,
    )
  for rate_name, rate in RATES.items():
    mixture = get_mixture_name(name, rate_name)
    seqio.MixtureRegistry.remove(mixture)
    seqio.MixtureRegistry.add(
      mixture, [(f"{name}_{code}", rate) for code in codes]
    )


def register_inference_task(
  *,
  name: str,
  passages: str | os.PathLike,
  languages: Sequence[str],
  vocabulary: seqio.Vocabulary,
) -> None:
  """Registers a task that asks for questions to the passages of a file.

  Its one split, `test`, has a prompt for each passage in each language, all
  languages of a passage one after another.

  Args:
    name: such as `local_inference`; an earlier task of the name is replaced.
    passages: TSV or JSONL file.
    languages: to ask for, by codes of ISO 639.
    vocabulary: of prompts and questions.

  Raises:
    InputError: an unknown language, or none.
  """
  codes = [language.code for language in get_languages(languages)]
  if not codes:
    raise InputError("no languages are given", mend="name at least one")
  _add_task(
    name,
    PassagesSource(passages),
    preprocessors.make_inference_preprocessors(codes),
    vocabulary,
  )


def list_languages(mixture_or_task_name: str) -> list[str]:
  """The languages of registered generation tasks, by the ends of their names.

  A task of another name has none.
  """
  provider = seqio.get_mixture_or_task(mixture_or_task_name)
  codes = [
    task.name.rpartition("_")[2] for task in seqio.get_subtasks(provider)
  ]
  return sorted(code for code in codes if code in LANGUAGES)


def get_mixture_name(name: str, rate: str) -> str:
  """The mixture of `name` by a rate of `RATES`.

  Raises:
    InputError: no such rate.
  """
  if rate not in RATES:
    raise InputError(
      f"unknown mixing rate {rate!r}", mend="use one of " + ", ".join(RATES)
    )
  return name if rate == "proportional" else f"{name}_{rate}"


def _add_task(
  name: str,
  source: seqio.DataSource,
  steps: Sequence[Callable],
  vocabulary: seqio.Vocabulary,
) -> None:
  seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(
    name,
    # Its protocol knows no source without a count, its base class does.
    source=cast(seqio.DataSourceInterface, source),
    preprocessors=steps,
    output_features={
      key: seqio.Feature(vocabulary, add_eos=True)
      for key in ("inputs", "targets")
    },
    postprocess_fn=metrics.postprocess,
    metric_fns=list(metrics.METRICS),
    shuffle_buffer_size=SHUFFLE_BUFFER_SIZE,
  )
