// Who owns a store, and whether there is one.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// Takes the store in `root` for this process: a flock on <root>/lock, which the kernel gives back
// however the process ends. kFailedPrecondition when another process has it; the message names its
// pid. Waits for one that was killed and is about to end, up to 30 s. A disk that takes no writes
// is no failure.
absl::StatusOr<Fd> LockStore(const std::string& root);

// Whether that process has been killed and is there no longer but for threads that are about to end
// and give its files back only then. Those that run when nothing else does would take long on a
// busy machine: they no longer are of that kind then.
bool HastenEnd(std::string_view pid);

// Whether anything but records is kept there.
bool StoreHasContent(const std::string& root);

}  // namespace imagefs
