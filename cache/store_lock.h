// Who owns a store, and whether there is one.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// Takes the store in `root` for this process: a flock on <root>/lock, which the kernel gives back
// however the process ends. kFailedPrecondition when another process has it; the message names its
// pid. Waits for one that was killed and is about to end, up to 5 s. A disk that takes no writes is
// no failure.
absl::StatusOr<Fd> LockStore(const std::string& root);

// Whether anything but records is kept there.
bool StoreHasContent(const std::string& root);

}  // namespace imagefs
