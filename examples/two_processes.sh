#!/usr/bin/env bash
# Any method of `plumb train` in two processes, one for each GPU: bash two_processes.sh METHOD --data FILE --out FOLDER
set -euo pipefail

accelerate launch --multi_gpu --num_machines 1 --num_processes 2 --mixed_precision no --dynamo_backend no \
  --no_python plumb train "$@"
