#!/bin/bash
# Installs Chromium for tests/report/test_browser.py, where apt and root (or sudo without a password) exist.
# Elsewhere it says so and leaves: those tests then skip with their reason.
set -euo pipefail
if hash chromium 2>/dev/null; then
    exit 0
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
    sudo=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
    echo "install_chromium: needs apt-get and root; the browser tests will skip" >&2
    exit 0
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
    || echo "install_chromium: apt-get failed; the browser tests will skip" >&2
