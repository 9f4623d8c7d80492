#!/usr/bin/env bash
# Run on TPU slices in Google Kubernetes Engine; see bash launch/gke.sh --help.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=options.bash
source "$root/launch/options.bash"

usage() {
  cat <<'TEXT'
usage: bash launch/gke.sh ACTION --name=NAME [OPTIONS] [-- OVERRIDES...]

  apply    fill in launch/gke.yaml and give it to kubectl
  logs     follow the output of one host
  delete   end the run; the workdir stays

  --image=I             container image with the project and the extras train, tpu, gcs; elastic-ast is on its PATH, and its working
                        directory is the root of the repository (apply)
  --accelerator=A       kind of TPU, such as tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice (apply)
  --topology=T          chips of a slice, such as 4x4 or 2x2x4 (apply)
  --bucket=B            the workdir is gs://B/NAME; the bucket is mounted as the folder /bucket, for the data (apply)
  --config=FILE[:ARG]   config file in the image (apply)
  --chips=C             chips of a host (default 4, or all of a smaller slice; 8 for machine types ending in -8t)
  --slices=S            number of slices (default 1)
  --restarts=R          start all again after at most R crashes (default 3); preemptions do not count
  --service_account=A   account of Kubernetes that may write to the bucket (default: the namespace's)
  --spot                use spot hosts, which cost less and can be preempted at any time
  --namespace=N         namespace of Kubernetes
  --slice=S --host=H    the host whose output is followed (logs; default 0 and 0)
  --dry_run             print the input and the command of kubectl, and call nothing

OVERRIDES are of the config: --config.data.train=/bucket/train.jsonl

example: bash launch/gke.sh apply --name=ast --image=us-docker.pkg.dev/p/r/elastic-ast-jax:1 --accelerator=tpu-v5-lite-podslice \
           --topology=4x4 --bucket=B --config=configs/manifest.py -- --config.data.train=/bucket/train.jsonl ...
TEXT
}

say() { printf 'gke.sh: %s\n' "$*"; }

# shellcheck disable=SC2034  # fill_in reads them by name
name='' image='' accelerator='' topology='' bucket='' config='' chips='' slices=1 restarts=3 service_account='' spot=''
namespace='' slice=0 host=0 dry_run=''
read_options 'name image accelerator topology bucket config chips slices restarts service_account namespace slice host' \
  'spot dry_run' "$@"
((${#words[@]} == 1)) || refuse "one action, not ${#words[@]}: ${words[*]-}"
action=${words[0]}
case $action in
  apply | logs | delete) ;;
  *) refuse "there is no action '$action'" ;;
esac
# It is a part of the names of Pods, which have 63 letters at most.
[[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  refuse "--name='$name' must be lower-case letters, digits and hyphens, 40 at most"
whole slices 1
whole restarts 0
whole slice 0
whole host 0

kube=(kubectl ${namespace:+"--namespace=$namespace"})

do_or_show() {  # do_or_show COMMAND...
  if [[ -n $dry_run ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

text() {  # text VALUE: prints it as a string of YAML
  local value=${1//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}

fill_in() {  # prints launch/gke.yaml with its marked values replaced, without lines that have no value
  local line mark value indent marked='^(.*[^ ]) +# <- ([a-z_]+)$' start='^( *(- |[^ ]+: ))'
  while IFS= read -r line; do
    if [[ ! $line =~ $marked ]]; then
      printf '%s\n' "$line"
      continue
    fi
    mark=${BASH_REMATCH[2]}
    [[ ${BASH_REMATCH[1]} =~ $start ]]
    indent=${BASH_REMATCH[1]}
    case $mark in
      overrides)
        for value in ${command[@]+"${command[@]}"}; do
          printf '%s%s\n' "$indent" "$(text "${value//\$/\$\$}")"  # Kubernetes reads $(NAME) as a variable, $$ as $
        done
        continue
        ;;
      config | workdir) value="--$mark=${!mark//\$/\$\$}" ;;
      spot) value=${spot:+true} ;;
      *) value=${!mark} ;;
    esac
    case $mark in
      restarts | slices | hosts | chips) printf '%s%s\n' "$indent" "$value" ;;
      *) [[ -z $value ]] || printf '%s%s\n' "$indent" "$(text "$value")" ;;
    esac
  done <"$root/launch/gke.yaml"
}

case $action in
  apply)
    for option in image accelerator topology bucket config; do
      [[ -n ${!option} ]] || refuse "--$option is missing"
    done
    [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || refuse "--topology=$topology must be like 4x4 or 2x2x4"
    [[ $bucket =~ ^[a-z0-9][a-z0-9._/-]*[a-z0-9]$ ]] || refuse "--bucket='$bucket' must be the name of a bucket, without gs://"
    for value in "$image" "$accelerator" "$config" "$service_account" ${command[@]+"${command[@]}"}; do
      [[ $value != *[[:cntrl:]]* ]] || refuse "$(quoted "$value") has a control character"
    done
    for override in ${command[@]+"${command[@]}"}; do
      [[ $override == --config.*=* ]] || refuse "'$override' must be an override: --config.section.key=value"
    done
    all=$((${topology//x/*}))
    [[ -n $chips ]] || chips=$((all < 4 ? all : 4))
    whole chips 1
    ((all % chips == 0)) || refuse "--topology=$topology has $all chips, which are no whole number of hosts of --chips=$chips"
    # shellcheck disable=SC2034  # fill_in reads them
    hosts=$((all / chips)) workdir=gs://$bucket/$name store=${bucket%%/*}
    filled=$(fill_in)
    if [[ -n $dry_run ]]; then
      printf '%s\n' "$filled"
      printf '# given to: %s\n' "$(quoted "${kube[@]}" apply --filename=-)"
    else
      "${kube[@]}" apply --filename=- <<<"$filled"
      say "to see it: bash launch/gke.sh logs --name=$name${namespace:+ --namespace=$namespace}"
    fi
    ;;
  logs)
    pod=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=$slice
    pod+=,batch.kubernetes.io/job-completion-index=$host
    do_or_show "${kube[@]}" logs --follow --tail=100 --container=train "--selector=$pod"
    ;;
  delete) do_or_show "${kube[@]}" delete jobset "$name" ;;
esac
