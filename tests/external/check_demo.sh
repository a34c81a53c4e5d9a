#!/usr/bin/env bash
# The first command of the README and its curl lines, as they stand there, on a machine that has nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" != inside ]; then
    # A network of its own: the demo's ports are fixed, and may be in use here.
    if command -v ip >/dev/null && unshare -n true 2>/dev/null; then exec unshare -n bash "$0" inside; fi
    if curl -s -o /dev/null localhost:8080; then echo "skipped: port 8080 is in use"; exit 0; fi
else
    ip link set lo up
fi

log=$(mktemp)
${RINGWAY:-target/debug/ringway} run 2>"$log" &
gateway=$!
trap 'kill "$gateway" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 600); do grep -q '"ready"' "$log" && break; sleep 0.1; done

fail() { echo "FAILED: $*"; cat "$log"; exit 1; }
readme_line() { grep -qxF "$1" README.md || fail "README.md has no line: $1"; bash -c "$1"; }

answer=$(readme_line 'curl -i localhost:8080/api/users/42')
grep -q '^HTTP/1.1 200' <<<"$answer" || fail "$answer"
grep -qi '^x-request-id: ' <<<"$answer" || fail "no request id: $answer"
# Each worker takes turns on its own, so that two requests may meet the same endpoint; ten do not.
names=$(for _ in $(seq 10); do curl -s localhost:8080/api/users/42 | grep -o '"service":"[^"]*"'; done | sort -u | wc -l)
[ "$names" = 2 ] || fail "$names of two endpoints answered"

readme_line 'for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w "%{http_code}\n" localhost:8080/api/orders/7; done' >"$log.codes"
[ "$(sort "$log.codes" | uniq -c | tr -s ' \n' ' ')" = " 5 200 1 429 " ] || fail "$(cat "$log.codes")"
curl -si localhost:8080/api/orders/7 | grep -qi '^retry-after: ' || fail "429 without Retry-After"
curl -sf localhost:9901/ready >/dev/null || fail "not ready"
kill -TERM "$gateway"
wait "$gateway" || fail "exit code $?"
rm -f "$log.codes"
echo "the README's commands work"
