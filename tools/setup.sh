# Set-up shared by ./start and ./test: Debian packages, the virtual environment and the gRPC code.
#
# Sourced, never run. Everything here does nothing, within a fraction of a second, when it was done
# before. What it makes stays inside the checkout: .venv/ and .cache/; of the system it changes only
# the Debian packages it names.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv
cache=$checkout/.cache
tools=$cache/tools

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# Networks and mirrors fail for a moment, and other processes hold apt's lock on a new machine.
patiently() {
  local pause
  for pause in 2 10 30; do
    "$@" && return
    say "failed, trying again in $pause s: $*"
    sleep "$pause"
  done
  "$@"
}

get() { patiently apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" </dev/null >/dev/null; }

# Only where it is needed: package lists on a fresh machine are empty or old.
refresh_package_lists() {
  [ -n "${package_lists_fresh:-}" ] && return
  get update || say 'apt-get update failed; going on with the lists that are there'
  package_lists_fresh=yes
}

# need_packages NAME...: Debian packages, installed where missing.
need_packages() {
  local name missing=()
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system; these packages' contents must be there: $*"
    return
  fi
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" -eq 0 ] || die "these Debian packages are missing; as root: apt-get install ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  refresh_package_lists
  DEBIAN_FRONTEND=noninteractive get install -y --no-install-recommends "${missing[@]}"
}

# need_command NAME PACKAGE: the package, where nothing else has brought the command.
need_command() {
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || need_packages "$2"
}

# need_tool PACKAGE PATH [PACKAGE...]: one file of a Debian package, unpacked below .cache/tools with
# the further packages. Nothing is installed, so no daemon that the package brings along ever starts.
need_tool() {
  [ -x "$tools/$2" ] && return
  say "fetching $1 for the tests"
  refresh_package_lists
  local download=$cache/download package
  rm -rf "$download"
  mkdir -p "$download" "$tools"
  (cd "$download" && get download -o APT::Sandbox::User=root "$1" "${@:3}")
  for package in "$download"/*.deb; do
    dpkg -x "$package" "$tools"
  done
  rm -rf "$download"
  [ -x "$tools/$2" ] || die "Debian package $1 has no $2"
}

# Skopeo and those of its libraries that the machine has not. What else its package depends on is for
# running containers.
need_skopeo() {
  command -v skopeo >/dev/null && return
  [ -x "$tools/usr/bin/skopeo" ] && return
  refresh_package_lists
  local libraries
  mapfile -t libraries < <(apt-get install -sq --no-install-recommends skopeo |
    awk '$1 == "Inst" && $2 ~ /^lib(assuan|devmapper|gpg-error|gpgme|subid)/ { print $2 }')
  need_tool skopeo usr/bin/skopeo "${libraries[@]}"
}

# need_newer_tool PACKAGE PATH: as need_tool, from Debian's newest suite, where this machine's has the
# package too old or not at all. From the machine's own mirror; its own apt knows nothing of it.
need_newer_tool() {
  [ -x "$tools/$2" ] && return
  say "fetching $1 of Debian sid for the tests"
  refresh_package_lists
  local apt=$cache/apt mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' 'Component: main' | sed -n 1p)
  rm -rf "$apt"
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$tools"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/sources.list"
  local options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" -o APT::Sandbox::User=root)
  get update "${options[@]}"
  (cd "$apt" && get download "${options[@]}" "$1")
  dpkg -x "$apt/$1"_*.deb "$tools"
  rm -rf "$apt"
  [ -x "$tools/$2" ] || die "Debian package $1 has no $2"
}

# need_programs NAME...: Debian packages with the libraries that they need, unpacked below
# .cache/programs for an image of the tests. Left out are libraries for what the tests do not use:
# PostgreSQL's compiler and its Perl.
need_programs() {
  local programs=$cache/programs libraries package
  [ -e "$programs/.complete" ] && return
  say "fetching programs for the tests: $*"
  refresh_package_lists
  local options=(--recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances)
  libraries=$(apt-cache depends "${options[@]}" "$@" |
    grep -E '^(lib|zlib|lua|redis-tools|postgresql-(client-)?[0-9]+$)' | grep -vE '^lib(llvm|z3|perl|elogind)' | sort -u)
  rm -rf "$programs" "$cache/download"
  mkdir -p "$programs" "$cache/download"
  # shellcheck disable=SC2086 # several words
  (cd "$cache/download" && get download -o APT::Sandbox::User=root "$@" $libraries)
  for package in "$cache/download"/*.deb; do
    dpkg -x "$package" "$programs"
  done
  rm -rf "$cache/download" "$programs"/usr/share/{doc,man,locale,lintian,perl5} "$programs"/usr/lib/postgresql/*/lib/bitcode
  touch "$programs/.complete"
}

# The first python3 of PATH if it is recent enough and complete, else Debian's own.
find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import ensurepip, sqlite3, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  need_packages python3 python3-venv
  /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die 'Python 3.11 or newer is needed'
  echo /usr/bin/python3
}

# What the virtual environment was made from, so that any change makes it again.
fingerprint() {
  (cd "$checkout" && { pwd; sha256sum pyproject.toml setup.py tools/constraints.txt lifecycle/protos/*; } | sha256sum)
}

install_package() {
  # "compat" is a plain path entry; the default is an import hook that costs each process 16 ms.
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --retries 10 --timeout 60 \
    --config-settings editable_mode=compat -e "$checkout${1:+[$1]}" </dev/null
}

# need_venv [EXTRA]: .venv with this package in editable form, and its generated code.
need_venv() {
  local extra=${1:-} wanted stamp python
  wanted=$(fingerprint)
  stamp=$venv/.longshore-${extra:-run}
  [ -e "$checkout/lifecycle/_pb/containers_pb2.py" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
  fi
  say 'installing the Python packages'
  # By the environment, which reaches what the build step installs, too: the second is for new pips.
  local constraints=$checkout/tools/constraints.txt
  PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints install_package "$extra" || {
    say 'the versions of tools/constraints.txt cannot be installed here; taking others'
    patiently install_package "$extra"
  }
  # Build tools of the test extra also make type stubs, which the installation's build step does not.
  [ -n "$extra" ] && "$venv/bin/python" "$checkout/lifecycle/protos/generate.py"
  echo "$wanted" >"$stamp"
  echo "$wanted" >"$venv/.longshore-run"
}

setup_engine() {
  need_packages ca-certificates libnftables1 libseccomp2 procps
  need_venv
}

setup_tests() {
  need_packages ca-certificates libnftables1 libseccomp2 procps git mmdebstrap
  need_command ip iproute2
  need_command nft nftables
  need_command openssl openssl
  need_tool busybox-static bin/busybox
  need_tool docker-registry usr/bin/docker-registry
  need_tool umoci usr/bin/umoci
  need_skopeo
  need_programs redis-server nginx postgresql tzdata
  need_newer_tool docker-compose usr/libexec/docker/cli-plugins/docker-compose
  if ! command -v docker >/dev/null; then
    need_tool docker.io usr/bin/docker
    PATH=$PATH:$tools/usr/bin
    export PATH
  fi
  need_venv test
}
