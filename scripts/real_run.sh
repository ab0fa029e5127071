#!/usr/bin/env bash
# Encode, augment, index, search and evaluate a real collection in one go.
#
#   scripts/real_run.sh CHECKPOINT_PATH COLLECTION OUTPUT_DIR [PUNKT_DIR]
#
# COLLECTION holds corpus.tsv, dev.jsonl, qrels.jsonl, generated_queries.jsonl.
# PUNKT_DIR is an NLTK data folder; without it NLTK looks in its usual places.
set -euo pipefail

if (($# < 3)); then
  sed -n '2,7s/^# \{0,1\}//p' "$0"
  exit 2
fi
checkpoint=$1 collection=$2 out=$3 punkt=${4:-None}
recipe=--gin_file=recipes/xquad_e5.gin
mkdir -p "$out"

xqg encode "$recipe" --gin.CHECKPOINT_PATH="$checkpoint" \
  --gin.PASSAGES="$collection/corpus.tsv" \
  --gin.GENERATED_QUERIES="$collection/generated_queries.jsonl" \
  --gin.OUTPUT_DIR="$out/store"
xqg augment "$recipe" --gin.STORE="$out/store" --gin.OUTPUT_DIR="$out/view"

# Name of the index, its kind, and the embeddings in it.
while read -r name kind embeddings; do
  xqg index "$recipe" --gin.EMBEDDINGS="$out/$embeddings" \
    --gin.INDEX_KIND="$kind" --gin.OUTPUT_DIR="$out/index_$name"
  xqg search "$recipe" --gin.CHECKPOINT_PATH="$checkpoint" \
    --gin.INDEX="$out/index_$name" --gin.QUESTIONS="$collection/dev.jsonl" \
    --gin.OUTPUT_DIR="$out/search_$name"
done <<'INDEXES'
base exact store
base_scann scann store
mean_scann scann view
INDEXES

xqg evaluate "$recipe" \
  --gin.RUNS="{'base': '$out/search_base', 'base, ScaNN': '$out/search_base_scann', 'mean 0.2, ScaNN': '$out/search_mean_scann'}" \
  --gin.QUESTIONS="$collection/dev.jsonl" \
  --gin.PASSAGES="$collection/corpus.tsv" \
  --gin.QRELS="$collection/qrels.jsonl" \
  --gin.PUNKT_DIR="$punkt" --gin.OUTPUT_DIR="$out/evaluation"
xqg report --gin.EVALUATIONS="['$out/evaluation']" \
  --gin.GENERATED_QUERIES="$collection/generated_queries.jsonl" \
  --gin.OUTPUT_DIR="$out/report"
