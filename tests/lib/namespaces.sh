# SPDX-License-Identifier: Apache-2.0
# For shells that a test starts in another mount namespace; the functions of lib.sh are exported to them.
set -euo pipefail
