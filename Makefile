# chainrelay: `make help` lists the targets. Everything runs with Debian's own Python in a venv that sees Debian's packages.
SHELL := /bin/bash
PATH := /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
PYTHON := .venv/bin/python
export PYTHONPATH := agent:tests:bench:packaging
HOPS ?= 2
FAMILY ?= 4
RULES ?= nftables
XDP ?= auto
WAY ?= recursive
SEAL ?= 0
QUICK ?=
COUNT ?= 1000000
# Most of a test is waiting for timers and processes: three at a time on two cores.
AT_ONCE ?= -n 3 --dist loadgroup
AGAIN ?=
KVM ?=

.PHONY: help setup lint types test test-long demo bench bench-setup bench-legacy fuzz-xdp deb check-deb test-hosts test-vagrant clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what the other targets need (apt, PyPI); they call it by themselves
	@packaging/setup.sh

lint: setup ## ruff
	@$(PYTHON) -m ruff check agent tests bench packaging

types: setup ## mypy --strict
	@$(PYTHON) -m mypy agent/chainrelay tests bench packaging

test: setup ## all tests but the long ones (root; about 15 minutes on two cores)
	@$(PYTHON) -m pytest -m "not long" $(AT_ONCE) $(AGAIN)

test-long: setup ## whole matrices and long runs (those on booted hosts: make test-hosts)
	@$(PYTHON) -m pytest -m long --ignore tests/hosts $(AT_ONCE) $(AGAIN)

test-hosts: setup ## an appliance's life on booted Debian 12 and 13, and on fresh ones the README's steps (root; an hour, with a mirror)
	@CHAINRELAY_HOSTS="bookworm trixie" $(PYTHON) -m pytest tests/hosts

test-vagrant: setup ## the same on four virtual machines with Debian's own kernel, by Vagrant and libvirt; KVM=1 where it runs them (root)
	@vagrant/needs.sh
	@[ -e "$${CHAINRELAY_BOX:-/var/cache/chainrelay-box}/chainrelay.box" ] || vagrant/box.sh
	@CHAINRELAY_KVM=$(KVM) CHAINRELAY_WHOLE=$(KVM) CHAINRELAY_HOSTS=vagrant $(PYTHON) -m pytest tests/hosts --ignore tests/hosts/test_fresh.py

deb: ## three packages into dist/, from a clean export, the same octets each time
	@packaging/build-deb.sh $(VERSION)

check-deb: ## the packages under lintian, piuparts, autopkgtest and reprotest (root)
	@packaging/check-deb.sh

demo: setup ## real video; HOPS=1..5 FAMILY=4|6 WAY=recursive|iterative RULES=nftables|iptables-legacy XDP=auto|native|generic|off SEAL=0|1 (root)
	@$(PYTHON) -m demo --hops $(HOPS) --family $(FAMILY) --way $(WAY) --rules $(RULES) --xdp $(XDP) $(if $(filter-out 0,$(SEAL)),--seal)

bench-setup: setup ## sessions per second through two hops; QUICK=1 ends within a minute
	@$(PYTHON) -m setup_rate $(if $(QUICK),--quick,--write docs)

bench: ## datagrams per second and core against other relays, into docs/benchmarks.md; QUICK=1: the main ratios (root)
	@BENCH=1 packaging/setup.sh
	@$(PYTHON) -m forwarding $(if $(QUICK),--quick,--write docs)
	@$(PYTHON) -m $(if $(QUICK),setup_rate --iterative,legacy_backend --write docs)

bench-legacy: setup ## iptables-legacy with 1 to 5,000 sessions standing, beside nftables; QUICK=1: half a minute (root)
	@$(PYTHON) -m legacy_backend $(if $(QUICK),--quick,--write docs)

fuzz-xdp: setup ## COUNT=1000000 random frames: the XDP program against its model (root)
	@$(PYTHON) -m unit.ebpf.fuzz --count $(COUNT)

clean: ## remove the venv and caches
	@rm -rf dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
