"""Packaging: metadata, dependencies with the reason for each bound, extras."""

import ast
import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
# Top-level folders that install inside the package.
MAPPED = {"tasks": "xqg_jax.tasks", "gin_configs": "xqg_jax.gin_configs"}

REQUIRED = [
  # One minor series: jax drops deprecated names at every minor release, and
  # jax.nn.dot_product_attention still changes there. Tested with 0.10.2.
  "jax>=0.10.2,<0.11",
  # 0.12.8 is the first to be tested with jax 0.10.2; Linen's partitioning
  # API, which T5X's names rest on, may move in 0.13.
  "flax>=0.12.8,<0.13",
  "optax>=0.2.8,<0.3",  # 0.3 may drop the deprecated transform aliases
  # Checkpoints: the on-disk layout is stable within 0.12.
  "orbax-checkpoint>=0.12.8,<0.13",
  "tensorstore>=0.1.84,<0.2",  # the first with every zarr3 option used here
  # 1.4 is the first with numpy 2; 1.4.2's optional TensorFlow ops are built
  # for 2.20, the bound of the extra `tasks`.
  "scann>=1.4.2,<1.5",
  "gin-config>=0.5.0,<0.6",  # dynamic registration as T5X uses it
  "numpy>=2.0,<3",  # scann 1.4 is built for numpy 2
  "tokenizers>=0.22,<0.24",  # as transformers 5 bounds it
  "transformers>=5.0,<6",  # tokenizers without tokenizer.json
  "huggingface_hub>=1.0,<3",  # as transformers 5 bounds it
  # Checks JSON against declared types and names the field that does not fit;
  # 0.19 is the first with `convert` as used here, its 1.0 may reword errors.
  "msgspec>=0.19,<1",
  "safetensors>=0.8,<1",  # names in the order of their bytes; with 0.8
  "jaxtyping>=0.3.2,<0.4",
  "ir_measures>=0.4.0,<0.5",  # 0.4 defines RR@k and Success@k as used here
  "nltk>=3.9.1,<4",  # 3.9.1 replaced pickled punkt data by punkt_tab
  "tqdm>=4.66,<5",
  "jinja2>=3.1,<4",
  "matplotlib>=3.9,<4",  # the first for numpy 2
]

TASKS = [
  "seqio>=0.0.20,<0.1",
  # seqio pulls tensorflow-text, which pulls the newest TensorFlow; ScaNN
  # 1.4.2 is built for 2.20 and dies beside 2.21.
  "tensorflow>=2.20.0,<2.21",
  "tensorflow-text>=2.20.0,<2.21",
  "tensorflow-datasets>=4.9.10,<5",  # the first without the `imp` module
  "sacrebleu>=2.4,<3",  # chrF, with its signature
]

SERVE = [
  # Its answers to bad input, and which headers it wants, change between minor
  # releases; tested with 0.165.
  "fastapi>=0.165,<1",
  "starlette>=1.10,<2",  # its check of hosts reads [::1]; tested with 1.10
  "uvicorn>=0.40,<1",  # `Server.capture_signals` as it is replaced here
]

DOCS = [
  "mkdocs>=1.6,<2",  # 1.6 has `File.generated`; 2 takes no plugins
  "mkdocs-material>=9.6,<10",  # the last major release of this theme
  "mkdocstrings[python]>=1.0,<2",  # 1.0 reads griffe 2's objects
  "griffelib>=2.0,<3",  # `griffe`, which reads the package without importing
]

LINT = [
  "ruff==0.17.6",  # the formatter changes between releases
  # Finds other errors at each release. `nodejs`: the Node.js that it runs on,
  # from the package index; it would download one otherwise.
  "pyright[nodejs]==1.1.414",
  "import-linter==2.17",  # its new releases tell of other broken contracts
  "pre-commit>=4,<5",  # runs these before a commit
]

# 0.4 reads its model from the package, without a pickle, and tells 97
# languages apart.
LANGID = ["py3langid>=0.4,<0.5"]

TEST = [
  *TASKS,
  *SERVE,
  *DOCS,
  *LINT,
  *LANGID,
  "pytest>=8.3,<10",
  "pytest-xdist>=3.6,<4",  # two files of tests at a time
  "hypothesis>=6.100,<7",
  "beartype>=0.20,<0.30",  # runtime checks of jaxtyping annotations
  # Reference models, never imported by the package; one build, because the
  # tolerances of the parity tests were met with it.
  "torch==2.13.0",
  # Opens exported dual encoders; 6 renamed the modules' types.
  "sentence-transformers>=6.2,<7",
  # Drives a Chromium that is installed; its own is never downloaded.
  "playwright>=1.50,<2",
]


def read_version() -> str:
  """Returns `__version__`, without importing the package."""
  tree = ast.parse((HERE / "xqg_jax/__init__.py").read_text(encoding="utf-8"))
  (version,) = (
    ast.literal_eval(node.value)
    for node in tree.body
    if isinstance(node, ast.Assign)
    and getattr(node.targets[0], "id", None) == "__version__"
  )
  return version


setup(
  name="xqg_jax",
  version=read_version(),
  author="xqg_jax developers",
  description=(
    "Cross-lingual dense retrieval with generated queries, in JAX: train, "
    "generate, encode, augment, index, search, evaluate."
  ),
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11,<3.13",  # seqio's tensorflow-text ends at 3.12
  # xqg_jax/tasks is a link to tasks/, for tools that read the sources.
  packages=sorted(
    {
      *find_packages(include=["xqg_jax", "xqg_jax.*"]),
      *(
        target + package.removeprefix(folder)
        for folder, target in MAPPED.items()
        for package in find_packages(include=[folder, f"{folder}.*"])
      ),
    }
  ),
  package_dir={target: folder for folder, target in MAPPED.items()},
  package_data={
    "": ["*.gin", "*.jinja", "*.html", "*.css", "*.js", "py.typed"],
    "xqg_jax": [
      "demo/generator/*",
      "serving/page/*",
      "data/question_bank.jsonl",
    ],
  },
  install_requires=REQUIRED,
  extras_require={
    "tasks": TASKS,
    "serve": SERVE,
    "docs": DOCS,
    "lint": LINT,
    "test": TEST,
    "torch": ["torch>=2.2"],  # reads pytorch_model.bin, nothing else
    # T5X itself is not on PyPI: docs/guide/query_generation.md.
    "t5x": [
      *TASKS,
      "cached_property",
      "clu",
      "fiddle",
      "grain",
      "tensorboard",
    ],
    "gpu": ["jax[cuda12]>=0.10.2,<0.11"],
    "tpu": ["jax[tpu]>=0.10.2,<0.11"],
    # Compiles TPU programs on any machine: the build that `tpu` runs.
    "tpu-plan": ["libtpu>=0.0.42,<0.0.43"],
    # Languages of questions that come without: its model is in the package.
    "langid": LANGID,
    "parquet": ["pyarrow>=17,<27"],  # `xqg store export` and `import`
    "bench": [
      "torch==2.13.0",
      "sentence-transformers>=5.1,<7",
      "faiss-cpu",
      "onnx",  # with the next, peers of encoding
      "onnxruntime",
      "ctranslate2",  # a peer of query generation
    ],
  },
  entry_points={"console_scripts": ["xqg = xqg_jax.cli.main:main"]},
  classifiers=[
    "Development Status :: 4 - Beta",
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Topic :: Text Processing :: Linguistic",
  ],
)
