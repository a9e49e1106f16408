#!/usr/bin/env bash
# The study of docs/study_encoder.md: its runs go below ./full and take some nine hours of one free core.
#
#     MIXCD_DATA=... bash benchmarks/encoder_study.sh
#     python benchmarks/study_tables.py full > tables.md
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

run() { mixcd-train -m "experiment=full_$1" trainer.enable_progress_bar=false "${@:2}"; }

# Pairing, compute units with those of the ledger's pass on top, samples of a part of the pool, steps between an oracle's
# looks.
while read -r pairing units part every; do
  run "$pairing" method=none,uniform,uniform_correct,mixcd,mixcd_shuffled,head_probe,probe_matching
  run "$pairing" method=screen_highest_loss,gradient_matching,mir
  run "$pairing" method=oracle_75,oracle,oracle_pure "+strategy.every_n_steps=$every"
  # As if the ledger were there already.
  run "$pairing" method=mixcd,head_probe,probe_matching "max_compute_units=$units" \
    "name=\${hydra:runtime.choices.strategy}_free"
  # A part of the pool, with a ledger of that alone.
  run "$pairing" method=uniform,mixcd,head_probe,probe_matching "pool_size=$part" \
    "name=\${hydra:runtime.choices.strategy}_part"
  # The curve of uniform rehearsal.
  run "$pairing" method=uniform rehearsal_weight=3,8
done << PAIRINGS
intents 14800 1000 20
topics 17700 1000 20
sentiment 7680 500 20
nli2 14800 1000 40
PAIRINGS

# Fewer and more rehearsed rows, and other weights.
run sentiment mix_ratio=0.0625,0.25
run sentiment method=uniform rehearsal_weight=0.5
run sentiment method=mixcd,gradient_matching rehearsal_weight=0.5,3,8
