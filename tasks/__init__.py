"""SeqIO tasks and mixtures; importing this registers the shipped ones.

Registration only: the logic is in `xqg_jax.seqio_data.preprocessors` and
`xqg_jax.seqio_data.dual_encoder_preprocessors`. Nothing is read or
downloaded before a task is used.
"""

if __name__ == "tasks":
  raise ImportError(
    "import this package as xqg_jax.tasks: under two names, SeqIO would "
    "register each task twice"
  )

from xqg_jax.tasks.dual_encoder import register_dual_encoder_task
from xqg_jax.tasks.generated import (
  GENERATED,
  register_generated_tasks,
  split_name,
)
from xqg_jax.tasks.generation import (
  register_generation_tasks,
  register_inference_task,
)
from xqg_jax.tasks.local import (
  local_dual_encoder,
  local_generation,
  local_inference,
  register_local_tasks,
)
from xqg_jax.tasks.xor_tydi import (
  register_tasks_of,
  register_xor_tydi_tasks,
  xor_tydi_dual_encoder,
  xor_tydi_generation,
)

__all__ = [
  "GENERATED",
  "local_dual_encoder",
  "local_generation",
  "local_inference",
  "register_dual_encoder_task",
  "register_generated_tasks",
  "register_generation_tasks",
  "register_inference_task",
  "register_local_tasks",
  "register_tasks_of",
  "register_xor_tydi_tasks",
  "split_name",
  "xor_tydi_dual_encoder",
  "xor_tydi_generation",
]

register_xor_tydi_tasks()
