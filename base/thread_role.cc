#include "base/thread_role.h"

#include <unistd.h>

#include <cstdlib>

#include "base/text.h"

namespace imagefs {

void internal::OnMayBlock(const char* what, const char* who) {
  static const bool checked = std::getenv("IMAGEFS_CHECK_THREADS") != nullptr;
  if (!checked) return;
  const std::string line = StrCat("FATAL: ", what, ", where ", who, " may not block\n");
  (void)!write(STDERR_FILENO, line.data(), line.size());
  abort();
}

}  // namespace imagefs
