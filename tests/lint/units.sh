#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The units of systemd/: systemd accepts them, none cuts the mounts off from the rest of the machine, their sockets
# are those that the daemon knows, and the exposure is what docs/systemd.md says.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v systemd-analyze >/dev/null || { echo "skip: systemd-analyze is not installed"; exit 77; }
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
bad=0
problem() { echo "units: $*"; bad=1; }

# What makes a mount namespace: systemd.exec(5), and what implies one of these.
cutting='PrivateMounts PrivateTmp PrivateDevices PrivateIPC PrivateUsers ProtectSystem ProtectHome ProtectProc ProcSubset
  ProtectKernelTunables ProtectKernelModules ProtectKernelLogs ProtectControlGroups ProtectHostname ReadOnlyPaths
  ReadWritePaths InaccessiblePaths ExecPaths NoExecPaths TemporaryFileSystem BindPaths BindReadOnlyPaths RootDirectory
  RootImage MountImages ExtensionImages ExtensionDirectories MountAPIVFS MountFlags DynamicUser LogNamespace
  PrivateNetwork NetworkNamespacePath IPCNamespacePath'
no_cut() {  # no_cut FILE...
  ! grep -nE "^[[:space:]]*($(tr -s ' \n' '|' <<<"$cutting" | sed 's/|$//'))[[:space:]]*=" /dev/null "$@"
}
no_cut $(git ls-files systemd | grep -E '\.(service|socket|conf|in)$') ||
  problem "these directives hide mounts from the machine, or the machine's from the daemon"
# The check itself sees one.
printf '[Service]\nProtectHome = yes\n' >"$T/cut"
! no_cut "$T/cut" >/dev/null || problem "the list of directives finds nothing"

# As installed, but for the program.
mkdir "$T/units"
ln -s /bin/true "$T/imagefsd"
sed "s#@CMAKE_INSTALL_FULL_BINDIR@#$T#" systemd/imagefs.service.in \
  >"$T/units/imagefs.service"
cp systemd/*.socket "$T/units"
! grep -n '@[A-Z_]*@' "$T/units/imagefs.service" || problem "a name that CMake does not fill in"
cp -r systemd/containerd.service.d "$T/units"
printf '[Service]\nExecStart=/bin/true\n' >"$T/units/containerd.service"
SYSTEMD_UNIT_PATH=$T/units: systemd-analyze verify --man=no "$T"/units/*.service "$T"/units/*.socket >"$T/verify" 2>&1 ||
  problem "systemd-analyze verify fails"
# Of our units only: the machine has others.
if grep -E "imagefs|$T" "$T/verify"; then problem "systemd-analyze verify complains"; fi

# NAME of <run>/NAME.sock is the name by which the daemon knows a socket.
known=$(grep -oE 'k[A-Za-z]+Socket\[\] = "[a-z]+"' cmd/service_manager.h | grep -oE '"[a-z]+"' | tr -d '"' | sort)
passed=$(grep -h '^FileDescriptorName=' systemd/*.socket | cut -d= -f2 | sort)
[ "$known" = "$passed" ] || problem "the daemon knows the sockets" $known", the units have" $passed
for file in systemd/*.socket; do
  name=$(grep '^FileDescriptorName=' "$file" | cut -d= -f2)
  for line in "ListenStream=/run/imagefs/$name.sock" SocketMode=0600 DirectoryMode=0711 Service=imagefs.service; do
    grep -qx "$line" "$file" || problem "$file lacks $line"
  done
done

# The daemon's memory has a bound, and is not kept at the cost of everybody else's, nor written to a core file or swap.
for line in 'MemoryMax=[0-9]+[MG]' MemorySwapMax=0 LimitCORE=0; do
  grep -qxE "$line" systemd/imagefs.service.in || problem "systemd/imagefs.service.in lacks $line"
done
score=$(sed -n 's/^OOMScoreAdjust=//p' systemd/imagefs.service.in)
[ "${score:-0}" -ge -100 ] || problem "OOMScoreAdjust=$score spares the daemon whatever it takes"

# "exposure level: 5.3, 34 findings" in the documentation. The level is rounded, so that the findings count, too.
report=$(systemd-analyze security --offline=yes --no-pager "$T/units/imagefs.service")
score="$(grep -oE 'level for imagefs.service: [0-9.]+' <<<"$report" | grep -oE '[0-9.]+$'), $(grep -c '^✗' <<<"$report") findings"
stated=$(grep -oE 'exposure level: [0-9.]+, [0-9]+ findings' docs/systemd.md | cut -d" " -f3- || true)
[ "$score" = "$stated" ] || problem "systemd-analyze security says $score, docs/systemd.md says $stated"
exit $bad
