// SPDX-License-Identifier: Apache-2.0
// References from hostile text: no crash, and the canonical text of what is accepted parses to the
// same reference.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/reference.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  absl::StatusOr<imagefs::Reference> reference = imagefs::Reference::Parse(text);
  if (!reference.ok()) return 0;
  absl::StatusOr<imagefs::Reference> again = imagefs::Reference::Parse(reference->ToString());
  if (!again.ok() || *again != *reference) abort();
  reference->IsLoopback();
  reference->MakeAbsolute("/base");
  absl::StatusOr<imagefs::Reference> absolute = imagefs::Reference::Parse(reference->ToString());
  if (reference->ToString().size() <= 4096 && (!absolute.ok() || *absolute != *reference)) abort();
  return 0;
}
