#!/bin/sh
# Removes Flagship from the cluster of the current context. Refuses while a MultiCluster is there: what becomes of its
# payload is for a person to say, and needs the daemon. See docs/install.md.
set -eu
kubectl=${KUBECTL:-kubectl}
deploy=$(dirname "$0")
crd=multiclusters.kube-vip.io

members=
# An assignment of its own: a question that is not answered ends the script here.
found=$($kubectl get crd "$crd" --ignore-not-found --output name)
if [ -n "$found" ]; then
  members=$($kubectl get "$crd" --all-namespaces --output \
    go-template='{{range .items}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}')
fi
if [ -n "$members" ]; then
  {
    echo 'Nothing was removed: this cluster has MultiClusters. For each, choose what becomes of its payload,'
    echo 'while the daemon runs:'
    echo "$members" | while read -r namespace name; do
      echo
      echo "  $namespace/$name"
      echo '  - it moves to another member, or is deleted here if this is the last one:'
      echo "      $kubectl delete multicluster --namespace $namespace $name"
      echo '  - it stays as it is (only for the last member of the fleet):'
      echo "      $kubectl patch multicluster --namespace $namespace $name --type merge \\"
      echo "        --patch '{\"spec\":{\"apply\":{\"deletionPolicy\":\"Orphan\"}}}'"
      echo "      $kubectl delete multicluster --namespace $namespace $name"
    done
    echo
    echo 'Then run this again.'
  } >&2
  exit 1
fi
$kubectl delete --ignore-not-found -f "$deploy/manager.yaml" -f "$deploy/rbac.yaml" -f "$deploy/namespace.yaml" \
  -f "$deploy/crds/multiclusters.yaml"
