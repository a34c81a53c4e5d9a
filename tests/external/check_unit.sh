#!/usr/bin/env bash
# The systemd units: legal, and exposed no more than promised (U23).
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v systemd-analyze >/dev/null || { echo "skipped: systemd-analyze is not installed"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
binary=$(realpath "${RINGWAY:-target/debug/ringway}")
# The one thing that differs from an installed system is where the program is.
for unit in ringway.service ringway.socket; do
  sed "s#/usr/bin/ringway#$binary#" "packaging/systemd/$unit" >"$folder/$unit"
done
# Types that this systemd does not know yet are named, not failed: notify-reload came with version 253.
said=$(systemd-analyze verify "$folder/ringway.service" "$folder/ringway.socket" 2>&1 || true)
said=$(grep -F ringway. <<<"$said" | grep -v 'notify-reload' || true)
[ -z "$said" ] || { echo "FAILED: $said"; exit 1; }
systemd-analyze security --offline=true --threshold=20 "$folder/ringway.service" | tail -1
