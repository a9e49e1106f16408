#!/usr/bin/env bash
# The study of docs/study.md: its runs go below ./study and take some four hours on one free core.
#
#     MIXCD_DATA=... bash benchmarks/study.sh
#     python benchmarks/study_tables.py study > tables.md
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

run() { mixcd-train -m experiment=study trainer.enable_progress_bar=false "data=$1" "model=$2" "${@:3}"; }
named() { run "$1" "$2" "name=\${hydra:runtime.choices.strategy}$3" "${@:4}"; }

# The pilot, on a seed of its own: which bins find the most damage?
pilot() {
  mixcd-train -m experiment=study trainer.enable_progress_bar=false "data=$1" "model=$2" method=mixcd seed=100 \
    "hydra.sweep.dir=study_pilot/$1" "name=\${hydra:runtime.choices.partition}" "${@:3}"
}
# Pairing, model, column for bins.
while read -r data model column; do
  pilot "$data" "$model" partition=label,loss_quantile,label_x_loss
  [ -z "$column" ] || pilot "$data" "$model" partition=column "partition.column=$column"
done << PAIRINGS
intents intents domain
topics topics source
sentiment sentiment source
fashion image_mlp
rotated image_mlp source
usps image_mlp source
nli2 nli genre
PAIRINGS

# Pairing, model, compute units with those of the ledger's pass on top, bins that the pilot chose.
while read -r data model units options; do
  read -ra options <<< "$options"
  run "$data" "$model" "${options[@]}" "seed=range(10)"
  # The curve of uniform rehearsal.
  run "$data" "$model" "${options[@]}" "seed=range(10)" method=uniform rehearsal_weight=0.5,3,8
  # As if the ledger were there already.
  named "$data" "$model" _free "${options[@]}" "seed=range(10)" method=mixcd,head_probe,probe_matching "max_compute_units=$units"
  # A part of the pool, with a ledger of that alone.
  named "$data" "$model" _part "${options[@]}" "seed=range(10)" method=uniform,mixcd,head_probe,probe_matching pool_size=4000
  # Fewer and more rehearsed rows.
  run "$data" "$model" "${options[@]}" "seed=range(10)" mix_ratio=0.015625,0.25
  # Other methods' weights.
  run "$data" "$model" "${options[@]}" rehearsal_weight=0.5,3,8 \
    method=uniform_correct,mixcd,head_probe,probe_matching,screen_highest_loss,gradient_matching,mir,oracle
done << PAIRINGS
intents intents 144966 partition=column partition.column=domain
topics topics 75499 partition=column partition.column=source
sentiment sentiment 80120 partition=label_x_loss
fashion image_mlp 90000 partition=loss_quantile
rotated image_mlp 85300 partition=loss_quantile
usps image_mlp 80300 partition=loss_quantile
nli2 nli 65055 partition=loss_quantile
PAIRINGS

# Distillation on what is rehearsed.
while read -r data bins; do
  named "$data" "$data" +kd partition=column "partition.column=$bins" method=uniform,head_probe,gradient_matching penalty=kd
done << PAIRINGS
intents domain
topics source
PAIRINGS
