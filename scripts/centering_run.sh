#!/usr/bin/env bash
# Centred questions on a collection, by the verbs alone: encode, search with and
# without CENTER, choose strength and alpha by cross-validation, evaluate.
#
#   scripts/centering_run.sh CHECKPOINT PASSAGES QUERIES QUESTIONS QRELS OUT [ARGS]
#
# QUERIES are generated queries. ARGS go to tune-alpha and evaluate, such as
# --gin.QRELS_FIELD=chunks_by_span.
set -euo pipefail

if (($# < 6)); then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit 2
fi
checkpoint=$1 passages=$2 queries=$3 questions=$4 qrels=$5 out=$6
shift 6
e5=--gin_file=encoders/e5.gin
mkdir -p "$out"

xqg encode "$e5" --gin.CHECKPOINT_PATH="$checkpoint" \
  --gin.PASSAGES="$passages" --gin.GENERATED_QUERIES="$queries" \
  --gin.OUTPUT_DIR="$out/store"
xqg center "$e5" --gin.CHECKPOINT_PATH="$checkpoint" --gin.OUTPUT_DIR="$out/bank"
xqg index --gin.EMBEDDINGS="$out/store" --gin.INDEX_KIND=exact \
  --gin.OUTPUT_DIR="$out/index"

# Name of the search, its strength, and the means.
while read -r name strength means; do
  xqg search "$e5" --gin.CHECKPOINT_PATH="$checkpoint" \
    --gin.INDEX="$out/index" --gin.QUESTIONS="$questions" \
    --gin.CENTER="$strength" --gin.CENTER_MEANS="$means" \
    --gin.OUTPUT_DIR="$out/search_$name"
done <<SEARCHES
base 0.0 None
centred 0.8 None
bank 0.8 $out/bank
SEARCHES

xqg tune-alpha --gin.SEARCH="$out/search_base" --gin.QUESTIONS="$questions" \
  --gin.PASSAGES="$passages" --gin.QRELS="$qrels" --gin.MEASURE=RR@10 \
  --gin.REDUCTION=mean --gin.ALPHAS='(0.05, 0.1, 0.2, 0.3, 0.4)' \
  --gin.CENTERS='(0.2, 0.4, 0.6, 0.8, 1.0, 1.2)' --gin.OUTPUT_DIR="$out/tuned" "$@"
xqg evaluate \
  --gin.RUNS="{'base': '$out/search_base', 'centred': '$out/search_centred', 'centred by the bank': '$out/search_bank'}" \
  --gin.QUESTIONS="$questions" --gin.PASSAGES="$passages" --gin.QRELS="$qrels" \
  --gin.REDUCTION=mean --gin.ALPHAS='(0.2,)' --gin.CENTERS='(0.8,)' \
  --gin.OUTPUT_DIR="$out/evaluation" "$@"
