"""SeqIO tasks and mixtures; importing this registers the shipped ones.

Registration only: the logic is in `xqg_jax.preprocessors`.
"""

if __name__ == "tasks":
  raise ImportError(
    "import this package as xqg_jax.tasks: under two names, SeqIO would "
    "register each task twice"
  )

from xqg_jax.tasks.dual_encoder import register_dual_encoder_task
from xqg_jax.tasks.generation import register_generation_tasks
from xqg_jax.tasks.local import register_local_tasks

__all__ = [
  "register_dual_encoder_task",
  "register_generation_tasks",
  "register_local_tasks",
]
