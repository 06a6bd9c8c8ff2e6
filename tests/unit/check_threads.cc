// SPDX-License-Identifier: Apache-2.0
// Linked into every unit test: what blocks on a thread that may not (base/thread_role.h) aborts it.
#include <cstdlib>

namespace {
[[maybe_unused]] const int checked = setenv("IMAGEFS_CHECK_THREADS", "1", /*overwrite=*/1);
}  // namespace
