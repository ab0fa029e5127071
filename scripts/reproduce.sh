#!/usr/bin/env bash
# One row of the paper's tables, or of those beyond it, from data to scores.
#
#   scripts/reproduce.sh RECIPE OUTPUT_DIR [FLAGS_OF_TRAIN...]
#
# RECIPE is a file of gin_configs/recipes/ without its ending, such as
# mbert_xor_tydi. Data, generator and queries in OUTPUT_DIR are shared by all
# recipes. What is finished is not done again. With XQG_MANUAL_DIR, a folder of
# the official files, nothing but the models is downloaded; NLTK_DATA is a folder
# with punkt_tab, if it does not lie in a usual place. Further flags, such as
# --gin_file=sharding/fsdp.gin, go to `xqg train` of the dual encoder.
set -euo pipefail

if (($# < 2)); then
  sed -n '2,12s/^# \{0,1\}//p' "$0"
  exit 2
fi
recipe=$1 out=$2
shift 2
file=--gin_file=recipes/$recipe.gin
data=$out/data row=$out/$recipe
mkdir -p "$row"

prepare() {
  xqg prepare --gin.OUTPUT_DIR="$data" --gin.DATASET="$1" \
    --gin.MANUAL_DIR="${XQG_MANUAL_DIR:-None}" --gin.PLAIN_FILES=True
}
prepare xor_tydi/retrieve
prepare xor_tydi/gold_passages
prepare xor_tydi/pairs
prepare wiki_passages/enwiki_2019
if [[ $recipe == *_nq ]]; then prepare natural_questions_dpr/dpr; fi
passages=$data/plain/wiki_passages/enwiki_2019/passages.tsv
questions=$data/plain/xor_tydi/retrieve/questions_dev.jsonl

xqg train --gin_file=models/mt5_finetune.gin \
  --gin.INITIAL_CHECKPOINT_PATH=google/mt5-base \
  --gin.MIXTURE_OR_TASK_NAME=xqg_generation --gin.DATA_DIR="$data" \
  --gin.TRAIN_STEPS=2000 --gin.MODEL_DIR="$out/generator"
xqg generate --gin.CHECKPOINT_PATH="$out/generator" \
  --gin.PASSAGES="$passages" --gin.DTYPE=bfloat16 \
  --gin.OUTPUT_DIR="$out/generated_queries"

generated=()
if [[ $recipe == *_generated || $recipe == *_mixed ]]; then
  generated=(--gin_file=generated_pairs.gin --gin.PASSAGES="$passages"
    --gin.GENERATED_QUERIES="$out/generated_queries")
fi
# The recipe comes last: it may take a sample of the passages.
xqg train ${generated[@]+"${generated[@]}"} "$file" --gin.DATA_DIR="$data" \
  --gin.MODEL_DIR="$row/encoder" "$@"

xqg encode "$file" --gin.CHECKPOINT_PATH="$row/encoder" \
  --gin.PASSAGES="$passages" \
  --gin.GENERATED_QUERIES="$out/generated_queries" \
  --gin.OUTPUT_DIR="$row/store"
xqg augment "$file" --gin.STORE="$row/store" --gin.OUTPUT_DIR="$row/view"
for pair in base:store augmented:view; do
  name=${pair%:*} embeddings=${pair#*:}
  xqg index "$file" --gin.EMBEDDINGS="$row/$embeddings" \
    --gin.OUTPUT_DIR="$row/index_$name"
  xqg search "$file" --gin.CHECKPOINT_PATH="$row/encoder" \
    --gin.INDEX="$row/index_$name" --gin.QUESTIONS="$questions" \
    --gin.OUTPUT_DIR="$row/search_$name"
done

xqg evaluate "$file" \
  --gin.RUNS="{'base': '$row/search_base', 'augmented': '$row/search_augmented'}" \
  --gin.QUESTIONS="$questions" --gin.PASSAGES="$passages" \
  --gin.NUM_QUERIES="(1, 2, 3, 4, 5)" \
  --gin.PUNKT_DIR="${NLTK_DATA:-None}" --gin.OUTPUT_DIR="$row/evaluation"
xqg report --gin.EVALUATIONS="['$row/evaluation']" \
  --gin.MODEL_DIRS="['$out/generator', '$row/encoder']" \
  --gin.GENERATED_QUERIES="$out/generated_queries" --gin.OUTPUT_DIR="$row/report"
python "$(dirname "$0")/write_reproduction.py" --reproduced="$out"
