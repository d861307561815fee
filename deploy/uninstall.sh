#!/bin/sh
# Removes Flagship from the cluster of the current context. Refuses while a MultiCluster is there: what becomes of its
# payload is for a person to say, and needs the daemon. See docs/install.md.
set -eu
kubectl=${KUBECTL:-kubectl}
deploy=$(dirname "$0")
crd=multiclusters.kube-vip.io
system=kube-vip-multi-cluster-system
account=kube-vip-multi-cluster-controller-manager
payloads=kube-vip-multi-cluster-payloads

# Every answer is an assignment of its own: a question that is not answered ends the script there.

# `NAMESPACE NAME` of each MultiCluster.
members() {
  found=$($kubectl get crd "$crd" --ignore-not-found --output name)
  [ -z "$found" ] || $kubectl get "$crd" --all-namespaces --output \
    go-template='{{range .items}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}'
}

# What this prints ($2) of each binding of kind $1 that gives the daemon's ServiceAccount a role.
bindings() {
  subject="(eq .kind \"ServiceAccount\") (eq .name \"$account\") (eq .namespace \"$system\")"
  $kubectl get "$1" --all-namespaces --output \
    go-template="{{range \$it := .items}}{{range .subjects}}{{if and $subject}}{{with \$it.metadata}}$2{{\"\\n\"}}{{end}}{{end}}{{end}}{{end}}"
}

members=$(members)
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
in_namespaces=$(bindings rolebindings.rbac.authorization.k8s.io '{{.namespace}} {{.name}}')
everywhere=$(bindings clusterrolebindings.rbac.authorization.k8s.io '{{.name}}')

$kubectl delete --ignore-not-found -f "$deploy/manager.yaml"
# They were made by hand for namespaces of payloads. Left behind, they give `edit` to whoever makes a ServiceAccount of
# that name again.
others=$(
  echo "$in_namespaces" | while read -r namespace name; do
    case "$namespace/$name" in
    / | "$system/$account") ;;
    */"$payloads") $kubectl delete rolebinding --ignore-not-found --namespace "$namespace" "$name" >&2 ;;
    *) echo "  $kubectl delete rolebinding --namespace $namespace $name" ;;
    esac
  done
  echo "$everywhere" | while read -r name; do
    case "$name" in
    '' | "$account") ;;
    *) echo "  $kubectl delete clusterrolebinding $name" ;;
    esac
  done
)
$kubectl delete --ignore-not-found -f "$deploy/rbac.yaml" -f "$deploy/namespace.yaml"
if [ -n "$others" ]; then
  {
    echo
    echo "These bindings are not of this installation, and give their rights to whoever makes a ServiceAccount"
    echo "$account in $system again. To take them away:"
    echo "$others"
  } >&2
fi

# Deleting the CRD deletes these too, and their finalizers would wait for a daemon for ever.
members=$(members)
if [ -n "$members" ]; then
  {
    echo
    echo 'The daemon is removed, but the CRD stays: these MultiClusters were made meanwhile:'
    echo "$members" | sed 's/^/  /'
    echo "Install Flagship again ($kubectl apply -f $deploy/install.yaml), delete them, then run this again."
  } >&2
  exit 1
fi
$kubectl delete --ignore-not-found -f "$deploy/crds/multiclusters.yaml"
