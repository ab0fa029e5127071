"""Registers query generation: a task for each language and their mixture."""

import functools
from collections.abc import Callable, Sequence

import seqio

from xqg_jax import preprocessors

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
  rate: str = "proportional",
) -> None:
  """Registers tasks `<name>_<language>` and the mixture `<name>`.

  Args:
    name: such as `xqg_generation`; earlier tasks of the name are replaced.
    make_source: makes the source of training pairs of a language.
    languages: their ISO 639-1 codes.
    vocabulary: of prompts and questions.
    rate: how often a language is drawn: a key of `RATES`.
  """
  for language in languages:
    seqio.TaskRegistry.remove(f"{name}_{language}")
    seqio.TaskRegistry.add(
      f"{name}_{language}",
      source=make_source(language),
      preprocessors=preprocessors.GENERATION_PREPROCESSORS,
      output_features={
        key: seqio.Feature(vocabulary, add_eos=True)
        for key in ("inputs", "targets")
      },
      shuffle_buffer_size=SHUFFLE_BUFFER_SIZE,
    )
  seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(
    name, [(f"{name}_{language}", RATES[rate]) for language in languages]
  )
