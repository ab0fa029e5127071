#!/usr/bin/env bash
# Rounds of training with hard negatives that the encoder itself finds.
#
#   scripts/train_rounds.sh ROUNDS ENCODER PASSAGES PAIRS OUTPUT_DIR [FLAGS...]
#
# ENCODER is the dual encoder to begin with, PAIRS its training pairs in
# Tevatron/DPR form, or a folder of generated queries. Each round encodes the
# passages, indexes them, mines negatives and trains ENCODER anew on them, in
# OUTPUT_DIR/round_1, round_2, ...; the last encoder's passages, and the sums of
# their generated queries if there are any, are in OUTPUT_DIR/store, to be
# augmented. What is finished is not done again. FLAGS go to `xqg train`
# (--gin.TRAIN_STEPS=4040 is required); a file of encoders/ goes wherever the
# encoder does, GENERATED_QUERIES to the last `xqg encode` (a folder of PAIRS
# goes there by itself), and what chooses queries and negatives to `xqg
# mine-negatives`: NUM_QUERIES, LANGUAGES, SAMPLE, NUM_NEGATIVES, MARGIN,
# MAX_SCORE_RATIO.
set -euo pipefail

if (($# < 6)); then
  sed -n '2,17s/^# \{0,1\}//p' "$0"
  exit 2
fi
rounds=$1 first=$2 passages=$3 pairs=$4 out=$5
shift 5

encoding=() training=() queries=()
source=(--gin.TRAIN_PAIRS="$pairs")
if [[ -d $pairs ]]; then
  queries=(--gin.GENERATED_QUERIES="$pairs")
  source=(--gin_file=generated_pairs.gin "${queries[@]}")
fi
for flag in "$@"; do
  case $flag in
  --gin_file=encoders/*) encoding+=("$flag") ;;
  --gin.GENERATED_QUERIES=*) queries=("$flag") ;;
  --gin.NUM_QUERIES=* | --gin.LANGUAGES=* | --gin.SAMPLE=* | \
    --gin.NUM_NEGATIVES=* | --gin.MARGIN=* | --gin.MAX_SCORE_RATIO=*)
    source+=("$flag") ;;
  *) training+=("$flag") ;;
  esac
done

# ENCODER STORE [FLAGS...]: the passages into a store.
encode() {
  xqg encode ${encoding[@]+"${encoding[@]}"} --gin.CHECKPOINT_PATH="$1" \
    --gin.PASSAGES="$passages" --gin.OUTPUT_DIR="$2" "${@:3}"
}

encoder=$first
for ((round = 1; round <= rounds; round++)); do
  here=$out/round_$round
  mkdir -p "$here"
  encode "$encoder" "$here/store"
  xqg index --gin.EMBEDDINGS="$here/store" --gin.OUTPUT_DIR="$here/index"
  xqg mine-negatives "${source[@]}" ${encoding[@]+"${encoding[@]}"} \
    --gin.INDEX="$here/index" --gin.CHECKPOINT_PATH="$encoder" \
    --gin.PASSAGES="$passages" --gin.OUTPUT_DIR="$here/mined"
  xqg train --gin_file=models/dual_encoder_finetune.gin \
    ${encoding[@]+"${encoding[@]}"} ${training[@]+"${training[@]}"} \
    --gin.INITIAL_CHECKPOINT_PATH="$first" --gin.DATA_DIR="$here/mined" \
    --gin.MIXTURE_OR_TASK_NAME=local_dual_encoder \
    --gin.MODEL_DIR="$here/encoder"
  encoder=$here/encoder
done
encode "$encoder" "$out/store" ${queries[@]+"${queries[@]}"}
