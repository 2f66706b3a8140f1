#!/bin/sh
# Makes the certificates beside this file anew: an authority, and a server it vouches for.
# They prove nothing to anybody but the tests; the authority's key is thrown away.
# `openssl ca` because it can date them back: a test machine's clock may be slow.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >config <<EOF
[ca]
default_ca = tests
[tests]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
email_in_dn = no
[any]
commonName = supplied
[req]
distinguished_name = none
[none]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:hooks.example.com,IP:127.0.0.1
EOF
: >index
certify() {
  openssl ca -config config -batch -notext -startdate 20200101000000Z -enddate 21200101000000Z "$@"
}
for name in authority server; do
  openssl ecparam -name prime256v1 -genkey -noout -out "$name.key"
  openssl req -new -config config -key "$name.key" -subj "/CN=Reelwatch test $name" -out "$name.csr"
done
certify -selfsign -keyfile authority.key -extensions authority -in authority.csr -out authority.pem
certify -cert authority.pem -keyfile authority.key -extensions server -in server.csr -out server.crt
cp authority.pem "$here/authority.pem"
cat server.crt server.key >"$here/server.pem"
