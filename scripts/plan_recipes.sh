#!/usr/bin/env bash
# What the jobs of docs/reproduction.md take on 16 chips of TPU v5e and on one
# device, by `xqg plan`, without any of them.
#
#   scripts/plan_recipes.sh OUTPUT_DIR
#
# What is finished is not done again. Then writes the page's table.
set -euo pipefail

if (($# != 1)); then
  sed -n '2,7s/^# \{0,1\}//p' "$0"
  exit 2
fi
out=$1
mkdir -p "$out"

plan() {
  local job=$1 topology
  shift
  for topology in v5e:4x4 v5p:1x1x1; do
    xqg plan "$@" --gin.TOPOLOGY="$topology" --gin.FIND_LARGEST_BATCH=False \
      --gin.OUTPUT_DIR="$out/$job-${topology//:/-}"
  done
}

generator=(--gin_file=models/mt5_finetune.gin --gin_file=sizes/mt5_base.gin)
plan generator "${generator[@]}"
plan generation "${generator[@]}" --gin.STAGE=generate --gin.BATCH_SIZE=512
plan encoding --gin.STAGE=encode --gin_file=models/dual_encoder_finetune.gin \
  --gin_file=encoders/xlmr.gin --gin_file=sizes/xlmr_base.gin
plan mbert_xor_tydi --gin_file=recipes/mbert_xor_tydi.gin \
  --gin_file=sizes/mbert.gin
for recipe in xlmr_xor_tydi xlmr_generated; do
  plan "$recipe" --gin_file="recipes/$recipe.gin" \
    --gin_file=sizes/xlmr_base.gin
done
python "$(dirname "$0")/write_reproduction.py" --plans="$out"
