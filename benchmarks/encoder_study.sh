#!/usr/bin/env bash
# The study of docs/study_encoder.md: its runs go below ./full and ./full_spans and take some thirty hours of one core.
#
#     MIXCD_DATA=... bash benchmarks/encoder_study.sh
#     python benchmarks/study_tables.py full > tables.md
#     python benchmarks/study_tables.py full_spans > tables_spans.md
#     python benchmarks/study_figures.py full figures --curves
#     python benchmarks/study_figures.py full_spans figures --curves
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

run() { mixcd-train -m "experiment=full_$1" trainer.enable_progress_bar=false "${@:2}"; }
named() { run "$1" "name=\${hydra:runtime.choices.strategy}$2" "${@:3}"; }

all=uniform,uniform_correct,mixcd,head_probe,probe_matching,screen_highest_loss,gradient_matching
ratios="mix_ratio=0.015625,0.0625,0.25"
weights="rehearsal_weight=0.5,3,8"

# Pairing, compute units with those of the ledger's pass on top, steps between an oracle's looks, samples of a part.
while read -r pairing units every part; do
  run "$pairing" "method=none,mir,mixcd_shuffled,$all"
  run "$pairing" method=oracle_75,oracle,oracle_pure "+strategy.every_n_steps=$every"
  # As if the ledger were there already.
  named "$pairing" _free method=mixcd,head_probe,probe_matching "max_compute_units=$units"
  # A part of the pool, with a ledger of that alone.
  named "$pairing" _part method=uniform,mixcd,head_probe,probe_matching "pool_size=$part"
  # Fewer and more rehearsed rows.
  run "$pairing" "method=$all" "$ratios"
  named "$pairing" _free method=probe_matching "$ratios" "max_compute_units=$units"
  named "$pairing" _part method=probe_matching "$ratios" "pool_size=$part"
  # Curves of rehearsal weights.
  run "$pairing" "method=$all" "$weights"
  named "$pairing" _free method=probe_matching "$weights" "max_compute_units=$units"
  named "$pairing" _part method=probe_matching "$weights" "pool_size=$part"
  run "$pairing" method=oracle_25 "+strategy.every_n_steps=$every"
  run "$pairing" method=mir "$ratios"
  run "$pairing" method=oracle "$ratios" "+strategy.every_n_steps=$every"
  run "$pairing" method=mir "$weights"
  # Inference takes too long for the rest.
  [ "$pairing" != nli2 ] || continue
  run "$pairing" method=mixcd_shuffled "$ratios"
done << PAIRINGS
intents 14800 20 1000
topics 17700 20 1000
sentiment 7680 20 500
nli2 14800 40 1000
PAIRINGS

# Looks cost most: elsewhere the best oracles, and more of sentiment, which is the quickest.
run intents method=oracle_pure "$ratios"
run intents method=oracle_pure "$weights"
run topics method=oracle_75 "$ratios"
run topics method=oracle_75 "$weights"
run sentiment method=oracle_75 "$ratios"
run sentiment method=oracle_pure mix_ratio=0.0625,0.25
run sentiment method=oracle "$weights"
run nli2 method=oracle rehearsal_weight=3,8 +strategy.every_n_steps=40

# Spans have no class head. Tables of all pairings would be empty for what needs one, so they have a folder of their own.
spans() { run spans hydra.sweep.dir=full_spans/spans "$@"; }
spans method=none,uniform,uniform_correct,mixcd,mixcd_shuffled,screen_highest_loss,mir
spans method=oracle_75,oracle,oracle_25,oracle_pure +strategy.every_n_steps=40
spans method=uniform,uniform_correct,mixcd,mixcd_shuffled,screen_highest_loss,mir "$ratios"
spans method=oracle "$ratios" +strategy.every_n_steps=40
spans method=uniform,uniform_correct,mixcd,screen_highest_loss,mir "$weights"
spans method=oracle "$weights" +strategy.every_n_steps=40
