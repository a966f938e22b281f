#!/bin/bash
# Installs SLURM and MUNGE for tests/slurm, where apt and root (or sudo without a password) exist; starts no service.
# Elsewhere it says so and leaves: those tests then skip with their reason.
set -euo pipefail
if PATH="$PATH:/usr/sbin" hash munged slurmctld slurmd sbatch 2>/dev/null; then
    exit 0
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
    sudo=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
    echo "install_slurm: needs apt-get and root; the tests of tests/slurm will skip" >&2
    exit 0
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
