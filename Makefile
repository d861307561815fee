# Targets that people know from other controllers; each is one line over cargo, kubectl or docker.

# The local name in deploy/manager.yaml. There is no public image yet.
LOCAL := flagship:0.1.0
IMG ?= $(LOCAL)
KUBECTL ?= kubectl
DOCKER ?= docker
# Static: nothing but the binary goes into the image. Built for this machine's own processor.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
STATIC = target/$(HOST)/release

.DEFAULT_GOAL := help
.PHONY: help docker-build docker-build-scratch docker-build-quick docker-push install deploy undeploy uninstall build-installer

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 22

docker-build: ## Build the image IMG inside of containers (pulls rust from a registry)
	$(DOCKER) build -t $(IMG) .

docker-build-scratch: ## Build the image IMG with this machine's Rust, without any registry
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(HOST) --bin flagship
	tar -c -C deploy Dockerfile.scratch -C ../$(STATIC) flagship | $(DOCKER) build -f Dockerfile.scratch -t $(IMG) -

docker-build-quick: ## Build, load into the harness's kind clusters, roll the daemons; objects stay as they are
	cargo run --release -p clusters -- --provider kind --reload

docker-push: ## Push the image IMG
	$(DOCKER) push $(IMG)

install: ## Put the CRD into the cluster of the current context
	$(KUBECTL) apply -f deploy/crds

deploy: ## Put everything into the cluster of the current context, with the image IMG
	sed 's|image: $(LOCAL)|image: $(IMG)|' deploy/install.yaml | $(KUBECTL) apply -f -

undeploy: ## Remove the daemon; MultiClusters, payload, certificates stay (docs/install.md)
	$(KUBECTL) delete --ignore-not-found -f deploy/manager.yaml
	@echo 'The payload runs on, and nobody looks after it. If members of the fleet run elsewhere, one of them starts it a second time after 30 s: docs/install.md.'

uninstall: ## Remove everything; refuses while there are MultiClusters
	KUBECTL="$(KUBECTL)" sh deploy/uninstall.sh

build-installer: ## Write dist/install.yaml with the image IMG; deploy/install.yaml is made anew from its sources
	UPDATE=1 cargo test --quiet -p flagship-k8s-api
	mkdir -p dist && sed 's|image: $(LOCAL)|image: $(IMG)|' deploy/install.yaml > dist/install.yaml
