#!/usr/bin/env bash
# The study of docs/study_encoder.md: its runs go below ./full and take some six hours of one free core.
#
#     MIXCD_DATA=... bash benchmarks/encoder_study.sh
#     python benchmarks/study_tables.py full > tables.md
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

run() { mixcd-train -m "experiment=full_$1" trainer.enable_progress_bar=false "${@:2}"; }

# Pairing, compute units with those of the ledger's pass on top, steps between an oracle's looks, samples of a part.
while read -r pairing units every part; do
  run "$pairing" method=none,uniform,uniform_correct,mixcd,head_probe,probe_matching,screen_highest_loss,gradient_matching
  run "$pairing" method=oracle "+strategy.every_n_steps=$every"
  # As if the ledger were there already.
  run "$pairing" method=mixcd,head_probe,probe_matching "max_compute_units=$units" \
    "name=\${hydra:runtime.choices.strategy}_free"
  # A part of the pool, with a ledger of that alone.
  run "$pairing" method=uniform,mixcd,head_probe,probe_matching "pool_size=$part" \
    "name=\${hydra:runtime.choices.strategy}_part"
  # The curve of uniform rehearsal.
  run "$pairing" method=uniform rehearsal_weight=3,8
  # Inference takes too long for the rest.
  [ "$pairing" != nli2 ] || continue
  run "$pairing" method=mixcd_shuffled,mir,oracle_75,oracle_pure
done << PAIRINGS
intents 14800 20 1000
topics 17700 20 1000
sentiment 7680 20 500
nli2 14800 40 1000
PAIRINGS

# Fewer and more rehearsed rows, and other weights.
run sentiment mix_ratio=0.0625,0.25
run sentiment method=uniform rehearsal_weight=0.5
run sentiment method=mixcd,gradient_matching rehearsal_weight=0.5,3,8
