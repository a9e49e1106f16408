#!/usr/bin/env bash
# The study of docs/study_encoder.md: its runs go below ./full and take some eight hours of one free core.
#
#     MIXCD_DATA=... bash benchmarks/encoder_study.sh
#     python benchmarks/study_tables.py full > tables.md
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

run() { mixcd-train -m "experiment=full_$1" trainer.enable_progress_bar=false "${@:2}"; }

# Pairing, compute units with those of the ledger's pass on top, methods whose weights are swept beside uniform rehearsal.
while read -r pairing units methods; do
  run "$pairing"
  # Fewer and more rehearsed rows.
  run "$pairing" mix_ratio=0.0625,0.25
  # As if the ledger were there already.
  run "$pairing" "method=${methods}" "max_compute_units=$units" "name=\${hydra:runtime.choices.strategy}_free"
done << PAIRINGS
