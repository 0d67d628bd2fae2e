#!/bin/bash
# The cells for reporting of PROTOCOL.md, without (b): bash experiments/results/gem_miner_auto/cells.sh RUN_DIR
# and those that its second version adds: UNSEEN=1 bash .../cells.sh RUN_DIR; that of CIFAR-10: CIFAR=1 bash .../cells.sh RUN_DIR;
# those of Conv-2: CONV=1 bash .../cells.sh RUN_DIR
# Started again it goes on where it was stopped. (b) is the grid of the same cells, seed 1: GRID=1 bash .../cells.sh RUN_DIR
# and then, of each cell, the best of its grid with five seeds: TUNED=1 bash .../cells.sh RUN_DIR; both also with CIFAR=1 or CONV=1
set -e
runs=${1:?"expected a folder for the runs"}
[ -n "$UNSEEN" ] && [ -n "$GRID$TUNED$CIFAR$CONV" ] && { echo "UNSEEN: expected none of GRID, TUNED, CIFAR and CONV with it" >&2; exit 2; }
[ -n "$CIFAR" ] && [ -n "$CONV" ] && { echo "CIFAR: expected no CONV with it" >&2; exit 2; }
sgd="--training.optimizer=sgd --training.schedule=multistep --init=kaiming_normal"

# gem_miner OPTIMIZER PERIOD LAMBDA
gem_miner() {
  echo "gem_miner --gem-miner.period=$2 --gem-miner.l2=$3 $([ "$1" = adam ] && echo "--gem-miner.optimizer=adam --learning-rate=0.02")"
}

# best GRID_FOLDER SPARSITY: the setting with the highest validation accuracy after its search
best() {
  python - "$1" "$2" <<'EOF'
import csv, pathlib, sys

def accuracy(setting):
    (metrics,) = (setting / sys.argv[2]).rglob("metrics.csv")
    with metrics.open() as file:
        return [float(row["validation_accuracy"]) for row in csv.DictReader(file) if row["phase"] == "search"][-1]

settings = [setting for setting in pathlib.Path(sys.argv[1]).iterdir() if (setting / sys.argv[2]).is_dir()]
assert len(settings) == 12, settings
print(max(sorted(settings), key=accuracy).name.replace("-", " ", 2))
EOF
}

# methods PERIOD ROUNDS ROUND_EPOCHS SLOWER FLAGS_OF_WEIGHTS FLAGS_OF_IMP_AND_LRR
methods() {
  if [ -n "$GRID" ]; then
    columns=""
    for period in "$1" "$4"; do
      for l2 in 0 2e-4 1e-3; do
        columns+="sgd $period $l2: $(gem_miner sgd "$period" "$l2"); adam $period $l2: $(gem_miner adam "$period" "$l2"); "
      done
    done
    echo "${columns%; }"
  else
    echo "auto: gem_miner_auto; first: gem_miner_auto --gem-miner-auto.no-drop-unused;" \
      "paper: gem_miner --gem-miner.period=$1 --gem-miner.l2=1e-4; edge-popup: edge_popup;" \
      "imp: imp --imp.decay --imp.rounds=$2 --imp.round-epochs=$3 --imp.rewind-step=20 $5;" \
      "lrr: lrr --lrr.decay --lrr.rounds=$2 --lrr.round-epochs=$3 $5"
  fi
}

seeds=(--seed=42 --num-seeds=5)
[ -n "$GRID" ] && seeds=(--seed=1 --num-seeds=1)
name=${GRID:+grid-}${UNSEEN:+unseen-}

# cell DATASET FOLDER EPOCHS SPARSITIES COLUMNS FLAGS...
cell() {
  if [ -n "$TUNED" ]; then
    for sparsity in ${4//,/ }; do
      setting=$(best "$runs/grid-$2" "$sparsity")
      echo "$2 at $sparsity: $setting"
      compare "$1" "tuned-$2-$sparsity" "$3" "$sparsity" "tuned: $(gem_miner $setting)" "${@:6}"
    done
  else
    compare "$1" "$name$2" "${@:3}"
  fi
}

compare() {
  python -m experiments.compare "$1" "--run-dir=$runs/$2" "--epochs=$3" "--sparsities=$4" "--columns=$5" "${@:6}" \
    "${seeds[@]}" --finetune.optimizer=sgd --finetune.schedule=multistep --weight-decay=1e-4 --no-dense
}

lenet() {
  held=${GRID:+--validation-examples=10000}
  cell mnist "lenet-$((100 * $1))" "$1" "$2" "$3" --model=lenet_300_100 --train-examples=10000 --batch-size=100 \
    --finetune-epochs=10 --finetune-learning-rate=0.1 $held
}

resnet() {
  held=${GRID:+--validation-examples=287}
  cell digits "resnet-$((45 * $1))" "$1" "$2" "$3" --model=resnet20 --batch-size=32 --finetune-epochs=12 $held
}

cifar10() {
  held=${GRID:+--validation-examples=5000}
  cell cifar10 "cifar10-$((313 * $1))" "$1" "$2" "$3" --model=resnet20 --image-size=16 --train-examples=10000 --batch-size=32 --finetune-epochs=5 $held
}

conv2() {
  finetuned="--finetune-epochs=3 --finetune-learning-rate=0.01"
  [ -n "$GRID" ] && finetuned="--finetune-epochs=1 --finetune-learning-rate=0.01 --validation-examples=10000"
  cell mnist "conv2-$((100 * $1))" "$1" "$2" "$3" --model=conv2 --image-size=14 --train-examples=10000 --batch-size=100 $finetuned
}

rate="--learning-rate=0.1 $sgd"
if [ -n "$CIFAR" ]; then
  cifar10 4 0.9856 "$(methods 1 4 1 2 "$rate --finetune-learning-rate=0.1")"
elif [ -n "$CONV" ]; then
  conv2 6 0.995,0.9 "$(methods 1 3 2 2 "--learning-rate=0.01 $sgd" | sed "s/ first: [^;]*;//")"
elif [ -n "$UNSEEN" ]; then
  lenet 6 0.95,0.998 "$(methods 1 3 2 2 "$rate")"
  resnet 5 0.95,0.998 "$(methods 1 5 1 2 "$rate --finetune-learning-rate=0.1")"
else
  lenet 6 0.9,0.995 "$(methods 1 3 2 2 "$rate")"
  lenet 24 0.9856 "$(methods 2 6 4 4 "$rate")"
  resnet 5 0.9856 "$(methods 1 5 1 2 "$rate --finetune-learning-rate=0.1")"
  resnet 20 0.9,0.995 "$(methods 1 5 4 4 "$rate --finetune-learning-rate=0.1")"
  lenet 96 0.9,0.995 "$(methods 5 12 8 20 "$rate")"
  resnet 80 0.9856 "$(methods 5 10 8 20 "$rate --finetune-learning-rate=0.1")"
fi
