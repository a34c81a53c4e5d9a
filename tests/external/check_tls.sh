#!/usr/bin/env bash
# What a public scanner finds of each profile (F80, F81): no old protocol, no weak cipher, no compression, no insecure
# renegotiation. Skipped where sslscan is missing.
set -euo pipefail
ringway=${RINGWAY:-target/debug/ringway}
for tool in sslscan openssl; do
    command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 0; }
done
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT
certificate() {
    openssl req -x509 -nodes -days 30 -subj /CN=scan.test -addext subjectAltName=DNS:scan.test \
        -newkey "${@:2}" -keyout "$dir/$1.key" -out "$dir/$1.crt" 2>/dev/null
}
certificate ec ec -pkeyopt ec_paramgen_curve:P-256
certificate rsa rsa:2048

scan() {
    local profile=$1
    cat >"$dir/$profile.yaml" <<YAML
admin: {enabled: false}
server: {workers: 1}
listeners:
  - address: 127.0.0.1:0
    tls:
      profile: $profile
      certificates:
        - {cert: $dir/ec.crt, key: $dir/ec.key}
        - {cert: $dir/rsa.crt, key: $dir/rsa.key}
routes: [{name: all, path: /*, respond: {body: hello}}]
YAML
    "$ringway" run -c "$dir/$profile.yaml" >"$dir/log" 2>&1 &
    pid=$!
    local address=
    for _ in $(seq 1200); do
        address=$(grep -o '"message":"listening","address":"[^"]*' "$dir/log" | grep -o '[0-9.]*:[0-9]*$' || true)
        [ -z "$address" ] || break
        sleep 0.05
    done
    [ -n "$address" ] || { cat "$dir/log"; return 1; }
    timeout 60 sslscan --no-colour --sni-name=scan.test "$address" >"$dir/$profile.txt"
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
}

fail() { echo "$1"; cat "$dir/$profile.txt"; exit 1; }

for profile in modern intermediate; do
    scan $profile
    for old in SSLv2 SSLv3 TLSv1.0 TLSv1.1; do
        grep -qE "^$old +disabled" "$dir/$profile.txt" || fail "$profile: $old is not refused"
    done
    grep -qE "^TLSv1.3 +enabled" "$dir/$profile.txt" || fail "$profile: no TLS 1.3"
    twelve=$([ $profile = modern ] && echo disabled || echo enabled)
    grep -qE "^TLSv1.2 +$twelve" "$dir/$profile.txt" || fail "$profile: TLS 1.2 is not $twelve"
    ! grep -qE "^(Preferred|Accepted) .*(CBC|RC4|3DES|DES-|NULL|EXP|anon|AES(128|256)-SHA)" "$dir/$profile.txt" ||
        fail "$profile: a weak cipher"
    weak=$(grep -E "^(Preferred|Accepted) " "$dir/$profile.txt" | grep -vE "TLS_(AES|CHACHA)|ECDHE-.*(GCM|CHACHA20)" || true)
    [ -z "$weak" ] || fail "$profile: a cipher without forward secrecy or AEAD: $weak"
    # A scanner without zlib cannot ask.
    grep -qE "Compression disabled|does not support compression" "$dir/$profile.txt" || fail "$profile: compression"
    ! grep -qE "Insecure session renegotiation|vulnerable to heartbleed$" <(grep -v "not vulnerable" "$dir/$profile.txt") ||
        fail "$profile: renegotiation or heartbleed"
    echo "$profile: $(grep -cE '^(Preferred|Accepted) ' "$dir/$profile.txt") ciphers, all with forward secrecy and AEAD"
done
