#!/usr/bin/env bash
# The guide of docs/kind.md on two real kind clusters, from a checkout to a failover and back: prints every command as
# a person types it, with what it answers, and fails where the guide would not work. Ends with the clusters removed,
# unless KEEP=1.
#
#   NODE_IMAGE=kindest/node:v1.36.1 LOAD_BALANCER='commands that install one in context $1 for address $2' \
#     testing/kind/guide.sh
#
# Needs docker, kind, kubectl and what the README needs. Without NODE_IMAGE kind takes its own. Without LOAD_BALANCER
# one has to be in the clusters (never so in new ones), or cloud-provider-kind has to run.
set -euo pipefail
cd "$(dirname "$0")/../.."

SYSTEM=kube-vip-multi-cluster-system
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '\n# %s\n' "$*"; }
# Shows a command line, and runs it.
run() { printf '$ %s\n' "$*"; eval "$*"; }
# Runs a check until it holds, for at most so many seconds, and says how long it took.
await() {
  local what=$1 limit=$2 check=$3 begun now
  begun=$(date +%s%N)
  until eval "$check" >/dev/null 2>&1; do
    now=$(date +%s%N)
    if (( (now - begun) / 1000000000 > limit )); then
      echo "guide: waited $limit s in vain: $what ($check)" >&2
      exit 1
    fi
    sleep 0.1
  done
  now=$(date +%s%N)
  printf '# %s: after %s.%03d s\n' "$what" $(((now - begun) / 1000000000)) $(((now - begun) / 1000000 % 1000))
}
# The payload's Deployment, and nothing else, is there or not; an API that does not answer is neither.
payload() { printf 'test "$(kubectl --context kind-%s get deployment nginx-deployment2 --ignore-not-found -o name || echo error)" = "%s"' "$1" "${2:+deployment.apps/nginx-deployment2}"; }
leads() { printf 'test "$(kubectl --context kind-%s get mc %s -o jsonpath={.status.role})" = Leader' "$1" "$1"; }
address() { case $1 in newyork) echo 172.18.100.100 ;; sheffield) echo 172.18.100.200 ;; esac; }

say 'Two clusters'
# A machine with cgroup v1 needs a word to its kubelets.
config=
if [ "$(docker info --format '{{.CgroupVersion}}')" = 1 ]; then
  cat > "$work/kind.yaml" <<'YAML'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
kubeadmConfigPatches:
  - |
    kind: KubeletConfiguration
    failCgroupV1: false
YAML
  config=" --config $work/kind.yaml"
fi
for name in newyork sheffield; do
  run "kind create cluster --name $name --wait 180s${NODE_IMAGE:+ --image $NODE_IMAGE}$config"
done

say 'The image: no registry is needed'
run 'make docker-build-scratch'
for name in newyork sheffield; do run "kind load docker-image flagship:0.1.0 --name $name"; done

say 'Install, and make the daemon reachable'
for name in newyork sheffield; do
  run "kubectl config use-context kind-$name"
  run 'kubectl apply -f deploy/install.yaml'
  run "kubectl expose deployment -n kube-vip-multi-cluster-system kube-vip-multi-cluster-controller-manager --port=9990 --selector='control-plane=controller-manager' --type=LoadBalancer --name=multi-cluster-service --load-balancer-ip=$(address $name)"
  if [ -n "${LOAD_BALANCER:-}" ]; then bash -c "$LOAD_BALANCER" load-balancer "kind-$name" "$(address $name)"; fi
  run "kubectl -n $SYSTEM wait --for=jsonpath='{.status.loadBalancer.ingress[0].ip}'=$(address $name) service/multi-cluster-service --timeout=60s"
  run "kubectl -n $SYSTEM rollout status deployment kube-vip-multi-cluster-controller-manager --timeout=60s"
done

say 'The two members. Without certificates they say what to do'
run 'kubectl --context kind-newyork apply -f testing/manifests/newyork.yaml'
run 'kubectl --context kind-newyork wait --for=condition=Stalled mc/newyork --timeout=60s'
run "kubectl --context kind-newyork get mc newyork -o jsonpath='{.status.conditions[?(@.type==\"Stalled\")].message}{\"\n\"}'"

say 'Certificates: the one step that the proof of concept did not have'
run "target/$(rustc -vV | sed -n 's/^host: //p')/release/flagship pki init --fleet federation --member newyork --member sheffield --out $work/pki"
for name in newyork sheffield; do run "kubectl --context kind-$name apply -f $work/pki/$name/secret.yaml"; done
await 'newyork has its certificate and leads (the kubelet takes up to 90 s to bring a Secret in)' 150 "$(leads newyork)"
await 'its payload is there' 20 "$(payload newyork there)"
run 'kubectl --context kind-sheffield apply -f testing/manifests/sheffield.yaml'
await 'sheffield leads, as its rank is higher' 120 "$(leads sheffield)"
await 'its payload is there' 20 "$(payload sheffield there)"
await 'and nowhere else' 20 "$(payload newyork)"
status="target/$(rustc -vV | sed -n 's/^host: //p')/release/flagship status --context kind-newyork --context kind-sheffield"
run "$status"
run "${status/status/check}"

say 'A cluster dies'
run 'docker stop -t 0 sheffield-control-plane'
await 'newyork leads' 30 "$(leads newyork)"
await 'its payload is there' 20 "$(payload newyork there)"
run 'kubectl --context kind-newyork get mc -A'
run "kubectl --context kind-newyork describe mc newyork | sed -n '/^Events/,\$p'"

say 'It comes back'
run 'docker start sheffield-control-plane'
# A load balancer announces the address again by itself; a stop took this one off the node.
if [ -n "${LOAD_BALANCER:-}" ]; then
  await 'the API answers' 120 'kubectl --context kind-sheffield get --raw /readyz'
  bash -c "$LOAD_BALANCER" load-balancer kind-sheffield "$(address sheffield)"
fi
await 'sheffield leads again' 180 "$(leads sheffield)"
await 'newyork has stopped its payload' 30 "$(payload newyork)"
run "$status"

say 'Remove: the standby, then the leader with its payload'
run 'kubectl --context kind-newyork delete mc newyork --timeout=60s'
run 'kubectl --context kind-sheffield delete mc sheffield --timeout=60s'
await 'no payload is left' 5 "$(payload sheffield) && $(payload newyork)"
for name in newyork sheffield; do
  run "kubectl config use-context kind-$name"
  run 'make uninstall'
done
if [ -z "${KEEP:-}" ]; then run 'kind delete clusters newyork sheffield'; fi
say 'The guide works.'
