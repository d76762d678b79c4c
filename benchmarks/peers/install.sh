#!/bin/sh
# Installs the programs that `make peers` compares with: by apt as root on Debian; everybody else is told what is missing.
# Nothing is started: Debian's packages start their servers unless this is said beforehand.
set -u
missing=""
need() { # need PACKAGE FILE...: one of the files is there if the package is
	package=$1; shift
	for file in "$@"; do [ -e "$file" ] && return; done
	missing="$missing $package"
}
program() { command -v "$2" >/dev/null 2>&1 || need "$1" "/usr/sbin/$2"; }
program nginx-light nginx
program redis-server redis-server
program redis-tools redis-benchmark
program openssl openssl
program g++ g++
need postgresql /usr/lib/postgresql/*/bin/postgres
need libabsl-dev /usr/include/absl/container/flat_hash_map.h /usr/local/include/absl/container/flat_hash_map.h
need libssl-dev /usr/include/openssl/ssl.h /usr/local/include/openssl/ssl.h
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "shikaku: not installed, and so not measured (Debian's names):$missing"
	exit 0
fi
echo "shikaku: installing$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 1' INT TERM
	printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update >/dev/null 2>&1
apt-get -qq install -y --no-install-recommends $missing >/dev/null 2>&1 ||
	echo "shikaku: apt could not install all of:$missing"
exit 0
